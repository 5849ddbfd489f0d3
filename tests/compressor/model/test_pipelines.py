"""Pipelines of several components and modules of any library: loaded, saved, edited, resumed; nothing of a folder is executed."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import datasets
import diffusers
import pytest
import torch
import transformers

from compressor.contracts import Progress, registry
from compressor.errors import PluginError, SourceError, UnsupportedModel
from compressor.model import Model
from compressor.model.model import plain
from compressor.model.sources import resolve
from compressor.plan.specs import ModelSource
from compressor.run.keys import source_digest
from compressor.testing import checks
from compressor.training.checkpoint import INTERVAL

LEVELS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
BLOCK = "down_blocks.0.resnets.0"


def unet():
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    return diffusers.UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **LEVELS, **kinds)


def vae():
    torch.manual_seed(1)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return diffusers.AutoencoderKL(in_channels=1, out_channels=1, latent_channels=1, sample_size=16, **LEVELS, **kinds)


class Latent(diffusers.DiffusionPipeline):
    """What a user would call to sample; only its components are ever read."""

    def __init__(self, unet, vae, scheduler):
        super().__init__()
        self.register_modules(unet=unet, vae=vae, scheduler=scheduler)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A pipeline as diffusers writes it."""
    folder = tmp_path_factory.mktemp("pipeline") / "latent"
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=20)
    Latent(unet=unet(), vae=vae(), scheduler=scheduler).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(source, tmp_path):
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(source, tmp_path / "copied"))


@pytest.fixture
def third_party(monkeypatch):
    """The stand-in's edit, pass and network, installed; gives its module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "stand_ins" / "diffusion"))
    import pipeline

    return pipeline


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def denoised(module):
    noisy = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return module(noisy, torch.tensor([1, 7])).sample


def test_pipeline_is_read_with_its_denoiser_as_main_and_its_scheduler_beside(source):
    model = Model.read(source)
    assert (list(model.components), model.main) == (["unet", "vae"], "unet")
    assert set(model.files) == {"model_index.json", "scheduler/scheduler_config.json"}
    assert model.module is model.component("unet").module
    assert not model.module.training
    assert torch.equal(denoised(model.module), denoised(unet().eval()))
    assert model.weights == sum(each.numel() for module in (unet(), vae()) for each in module.parameters())
    assert model.stored_bytes() == sum(model.layer_bytes().values()) == 4 * model.weights
    assert {"unet: down_blocks", "vae: encoder"} <= set(model.layer_bytes())


def test_pipeline_is_saved_to_equal_bytes_and_loaded_to_the_bit(source, tmp_path):
    Model.read(source).save(tmp_path / "one")
    Model.read(source).save(tmp_path / "two")
    loaded = Model.load(tmp_path / "one")
    loaded.save(tmp_path / "three")
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "three")
    assert loaded.main == "unet"
    assert torch.equal(denoised(loaded.module), denoised(unet().eval()))
    assert {"blueprint.json", "unet/blueprint.json", "scheduler/scheduler_config.json"} <= contents(tmp_path / "one").keys()
    assert not any(str(source).encode() in content for content in contents(tmp_path / "one").values())


def test_diffusers_opens_what_was_saved_where_every_component_is_plain(source, tmp_path):
    model = Model.read(source)
    assert plain(model)
    model.save(tmp_path)
    again = Latent.from_pretrained(tmp_path, local_files_only=True)
    assert torch.equal(denoised(again.unet.eval()), denoised(model.module))
    assert again.scheduler.config.num_train_timesteps == 20
    assert contents(source).keys() <= contents(tmp_path).keys()


def test_edit_of_one_component_comes_back_and_leaves_the_other_alone(source, tmp_path, third_party):
    model = Model.read(source)
    before, whole = model.weights, contents(source)
    model.apply(third_party.KeepGroups(block=BLOCK, groups=(0, 2)))
    assert (model.weights < before, plain(model), len(model.edits)) == (True, False, 1)
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    assert loaded.edits == model.edits
    assert loaded.component("vae").blueprint.edits == ()
    assert torch.equal(denoised(loaded.module), denoised(model.module))
    twin = model.copy()
    twin.apply(third_party.KeepGroups(block=BLOCK, groups=(1,)))
    assert (twin.main, len(twin.edits), len(model.edits)) == ("unet", 2, 1)
    saved = contents(tmp_path)["vae/diffusion_pytorch_model.safetensors"]
    Model.wrap(vae()).save(tmp_path / "alone")
    assert saved == contents(tmp_path / "alone")["diffusion_pytorch_model.safetensors"]
    assert contents(source) == whole
    with pytest.raises(UnsupportedModel, match="is no residual block"):
        model.apply(third_party.KeepGroups(block="encoder", groups=(0,)), "vae")


def test_training_of_the_denoiser_that_is_broken_off_ends_with_the_same_bytes(source, tmp_path, third_party, monkeypatch):
    monkeypatch.setenv(INTERVAL, "0")
    rows = datasets.Dataset.from_dict({"pixels": torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)).tolist()})
    step = registry.load("pass", "denoise").model_validate(
        {"epochs": 2, "batch_size": 4, "precision": "fp32", "checkpoint": "last"}
    )
    Model.read(source).save(tmp_path / "stored")

    class BrokenOff(Exception):
        pass

    def applied(folder, ends_at=None):
        told = []

        def tell(event):
            told.append(event)
            if isinstance(event, Progress) and event.done == ends_at:
                raise BrokenOff

        data, task = SimpleNamespace(split=lambda _: rows), SimpleNamespace(weight=lambda batch: len(batch["pixels"]))
        ctx = SimpleNamespace(folder=folder, seed=0, device="cpu", tell=tell, data=data, task=task)
        return step.apply(Model.load(tmp_path / "stored"), ctx), told

    with pytest.raises(BrokenOff):
        applied(tmp_path / "broken", ends_at=4)
    resumed, told = applied(tmp_path / "broken")
    assert any("goes on at step" in getattr(event, "text", "") for event in told)
    unbroken, _ = applied(tmp_path / "unbroken")
    resumed.save(tmp_path / "a")
    unbroken.save(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    changed = {name for name, each in contents(tmp_path / "a").items() if contents(tmp_path / "stored")[name] != each}
    assert changed == {"unet/diffusion_pytorch_model.safetensors"}


def test_components_of_several_libraries_stand_beside_each_other(source, tmp_path, third_party):
    torch.manual_seed(2)
    text = transformers.BertModel(
        transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=16)
    ).eval()
    parts = {"unet": unet(), "text_encoder": text, "labels": third_party.ClassEmbedder(4, 8)}
    model = Model.wrap(parts, {"tokenizer/vocab.txt": b"a\n"}, main="unet")
    model.save(tmp_path)
    loaded = Model.read(tmp_path)
    assert [each.blueprint.library for each in loaded.components.values()] == ["diffusers", "transformers", "networks"]
    label = torch.tensor([0, 3])
    assert torch.equal(loaded.component("labels").module(label), parts["labels"](label))
    assert loaded.layer_bytes()["text_encoder: layer 0 attention"] == model.layer_bytes()["text_encoder: layer 0 attention"]


def test_packed_module_says_itself_how_few_bytes_it_needs(third_party):
    model = Model.wrap(third_party.ClassEmbedder(4, 8))
    assert (model.weights, model.stored_bytes()) == (64, 2 * (8 + 4))
    assert model.layer_bytes() == {"table": 12, "back": 12}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_type_of_numbers_is_kept_by_libraries_whose_configurations_have_none(dtype, tmp_path, third_party):
    model = Model.wrap({"unet": unet().to(dtype), "labels": third_party.ClassEmbedder(4, 8).to(dtype)}, main="unet")
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    tensors = [each for part in loaded.components.values() for each in (*part.module.parameters(), *part.module.buffers())]
    assert {each.dtype for each in tensors} == {dtype}
    assert diffusers.UNet2DModel.from_pretrained(tmp_path / "unet").dtype == torch.float32, "its own loader casts, as ever"


def test_network_of_a_third_party_keeps_its_contract(third_party):
    found = [check for check in checks("pipeline") if check.kind == "network"]
    assert len(found) == 3
    for check in found:
        check()


def test_network_of_another_version_is_refused(tmp_path, third_party, monkeypatch):
    Model.wrap(third_party.ClassEmbedder(4, 8)).save(tmp_path)
    monkeypatch.setattr(third_party.ClassEmbedder, "version", 2)
    with pytest.raises(SourceError, match="network 'class-embedder' is of version 1, this installation reads version 2"):
        Model.load(tmp_path)


class Homemade(diffusers.UNet2DModel):
    """A class that diffusers does not define."""


def test_wrap_refuses_a_subclass_of_diffusers():
    with pytest.raises(UnsupportedModel, match="Homemade is a model class of none of diffusers, networks, transformers"):
        Model.wrap(Homemade(sample_size=8, **LEVELS, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2))


@pytest.mark.parametrize("name", ["os", "DDPMScheduler", "DiffusionPipeline", "ModelMixin2", "../evil", "__import__", "models"])
def test_load_refuses_classes_of_diffusers_that_are_no_models(name, source, tmp_path):
    Model.read(source).save(tmp_path)
    path = tmp_path / "unet" / "blueprint.json"
    values = json.loads(path.read_text())
    values["blueprint"]["class_name"] = name
    path.write_text(json.dumps(values))
    with pytest.raises(SourceError, match="is not a model class of diffusers"):
        Model.load(tmp_path)


def test_network_that_is_not_installed_is_refused(tmp_path, third_party, monkeypatch):
    Model.wrap(third_party.ClassEmbedder(4, 8)).save(tmp_path)
    monkeypatch.undo()
    with pytest.raises((SourceError, PluginError), match="no network named 'class-embedder' is installed"):
        Model.load(tmp_path)


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def _index(change):
    def spoil(folder):
        path = folder / "model_index.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return spoil


def _pickled(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


def _packed(part):
    def spoil(folder):
        path = folder / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": "torchao"}}))

    return spoil


def _code(folder):
    (folder / "pipeline.py").write_text("print('ran')")
    (folder / "unet" / "unet_2d.py").write_text("print('ran')")
    _index(lambda values: values.update(_class_name=["pipeline", "Evil"], unet=["unet_2d", "UNet2DModel"]))(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_pickled, "unet cannot be read as a model"),
        (_packed("unet"), r"unet/config\.json: quantization_config names weights that another library has packed"),
        (_packed("vae"), r"vae/config\.json: quantization_config names"),
        (_code, "component 'unet' is of 'unet_2d', whose models are not read"),
        (_index(lambda values: values.update({"../other": ["diffusers", "UNet2DModel"]})), "expected a library and a class"),
        (_index(lambda values: values.update(vae=["diffusers", 3])), "'vae' is .* expected a library and a class"),
        (_index(lambda values: values.clear()), "names no component with weights"),
        (lambda folder: (folder / "model_index.json").write_text("["), "is not JSON"),
        (lambda folder: (folder / "unet" / "config.json").write_text('{"_class_name": "os"}'), "'os' is not a model class"),
        (lambda folder: (folder / "unet" / "config.json").unlink(), "is in the layout of none|cannot be read"),
    ],
)
def test_read_refuses_a_damaged_or_wicked_pipeline_and_runs_nothing(spoil, message, copied, capsys):
    spoil(copied)
    with pytest.raises(SourceError, match=message):
        Model.read(copied)
    assert "ran" not in capsys.readouterr().out


def test_component_that_a_pipeline_goes_without_is_passed_over(copied):
    _index(lambda values: values.update(safety_checker=[None, None]))(copied)
    assert list(Model.read(copied).components) == ["unet", "vae"]


def test_files_beside_a_component_may_not_take_the_place_of_its_own(source, tmp_path):
    model = Model.read(source)
    model.files["unet/config.json"] = b"{}"
    with pytest.raises(SourceError, match=r"'unet/config.json' cannot name a file beside the model"):
        model.save(tmp_path)


def test_pipeline_is_a_source_that_a_plan_can_name_and_hold_to_its_digest(source):
    assert resolve(ModelSource(folder=str(source)), Path()) == source
    with pytest.raises(SourceError, match=r"has sha256 .*, the plan says 0000"):
        resolve(ModelSource(folder=str(source), sha256="0000000000000000"), Path())


def test_pipeline_of_pickles_only_is_refused_before_anything_is_read(copied):
    for path in copied.rglob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(SourceError, match=r"diffusion_pytorch_model.bin is a pickle, which could run code"):
        resolve(ModelSource(folder=str(copied)), Path())


def test_digest_of_a_source_sees_the_weights_of_its_components(copied):
    before = source_digest(copied)
    path = copied / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert source_digest(copied) != before


def test_single_module_of_diffusers_is_a_model_of_one_component(source, tmp_path):
    model = Model.read(source / "unet")
    assert (list(model.components), model.main, model.files) == (["model"], "model", {})
    model.save(tmp_path)
    assert torch.equal(denoised(diffusers.UNet2DModel.from_pretrained(tmp_path)), denoised(model.module))
