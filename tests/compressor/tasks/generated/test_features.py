import json
import shutil

import families
import numpy as np
import pytest
import torch
import transformers

from compressor.errors import NotComparable, SourceError, UnsupportedModel
from compressor.tasks.generated.features import FolderFeatures, Space, as_bytes, one_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random DINOv2 with an image processor."""
    place = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    families.ALL["dinov2-bare"].make().save_pretrained(place)
    edge = json.loads((place / "config.json").read_text())["image_size"]
    settings = {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": edge},
        "crop_size": {"height": edge, "width": edge},
    }
    (place / "preprocessor_config.json").write_text(json.dumps(settings))
    return place


def pictures(n=3, channels=1, edge=12):
    return np.random.default_rng(0).integers(0, 256, (n, channels, edge, edge), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_what_the_library_makes_of_the_same_pictures(folder, channels):
    from PIL import Image

    found = FolderFeatures(folder).of(pictures(channels=channels))
    images = [
        Image.fromarray(each[0] if channels == 1 else each.transpose(1, 2, 0)).convert("RGB")
        for each in pictures(channels=channels)
    ]
    pixels = transformers.BitImageProcessorPil.from_pretrained(folder)(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = transformers.Dinov2Model.from_pretrained(folder).eval()(pixels).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(found.rows, expected, atol=1e-5)
    assert found.space.width == expected.shape[1]


def test_another_size_other_weights_and_other_settings_are_other_features(folder, tmp_path):
    patch = json.loads((folder / "config.json").read_text())["patch_size"]
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "preprocessor_config.json").write_text(
        (folder / "preprocessor_config.json").read_text().replace('"crop_size"', '"do_normalize": false, "crop_size"')
    )
    module = families.ALL["dinov2-bare"].make()
    with torch.no_grad():
        module.embeddings.cls_token += 0.1
    module.save_pretrained(tmp_path / "weights")
    shutil.copy(folder / "preprocessor_config.json", tmp_path / "weights")
    spaces = [
        FolderFeatures(folder).space,
        FolderFeatures(folder, size=3 * patch).space,
        FolderFeatures(other).space,
        FolderFeatures(tmp_path / "weights").space,
    ]
    assert len({each.digest for each in spaces}) == 4
    assert FolderFeatures(folder).space == spaces[0]


def test_models_without_a_class_token_and_sizes_that_do_not_fit_are_refused(folder, tmp_path):
    config = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    siglip = transformers.SiglipVisionConfig(**config, image_size=16, patch_size=8)
    transformers.SiglipVisionModel(siglip).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="has no class token: take DINOv2"):
        FolderFeatures(tmp_path)
    patch = json.loads((folder / "config.json").read_text())["patch_size"]
    with pytest.raises(SourceError, match=f"size {patch + 1} is no multiple of the patches"):
        FolderFeatures(folder, size=patch + 1)
    with pytest.raises(SourceError):
        FolderFeatures(tmp_path / "nothing")


def test_numbers_become_the_bytes_that_a_file_holds():
    given = np.array([-2.0, -1.0, 0.0, 0.5, 1.0, 9.0], np.float32).reshape(1, 1, 1, 6)
    assert as_bytes(given).ravel().tolist() == [0, 0, 128, 191, 255, 255]
    assert as_bytes(pictures()) is not None
    np.testing.assert_array_equal(as_bytes(pictures().astype(np.float64) / 127.5 - 1), pictures())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (np.zeros((2, 2, 4, 4), np.float32), r"pictures are \[2, 2, 4, 4\], expected \[n, 1 or 3 channels"),
        (np.zeros((2, 16), np.float32), r"pictures are \[2, 16\]"),
        (np.zeros((0, 1, 4, 4), np.float32), r"pictures are \[0, 1, 4, 4\]"),
        (np.zeros((2, 1, 4, 4), np.int64), "pictures are int64, expected bytes, or numbers from -1 to 1"),
        (
            np.where(np.arange(32).reshape(2, 1, 4, 4) == 17, np.nan, 0.0),
            r"1 of 2 pictures hold NaN or infinite pixels \(first: 1\)",
        ),
    ],
)
def test_what_is_no_picture_is_refused(given, told):
    with pytest.raises(ValueError, match=told):
        as_bytes(given)


def test_networks_are_named_where_they_differ():
    one, other = Space(name="classifier", digest="a" * 64, width=8), Space(name="dinov2", digest="b" * 64, width=8)
    assert one_of([one, one]) == one
    with pytest.raises(
        NotComparable, match="measured by classifier aaaaaaaaaaaa, and by dinov2 bbbbbbbbbbbb: figures of different networks"
    ):
        one_of([one, one, other])
