"""What an image processor's configuration asks for, as steps: the image processors of transformers that are known, and their defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

HALF, IMAGENET = ([0.5] * 3, [0.5] * 3), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
OPENAI = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
BILINEAR, BICUBIC = 2, 3
UNCROPPED = 384
"""Pixels from which on ConvNeXt's way does not crop."""
MOST_EDGE = 2**14
"""Pixels that pictures may be made as wide or high as."""
CHANNELS_FIRST = ("data_format", "channels_first")
KIND = "image_processor_type"
USUAL = "ViTImageProcessor"
UNHEEDED = {
    KIND, "feature_extractor_type", "processor_class", "_processor_class", "_valid_processor_keys", "auto_map", "backend", "use_fast",
    "device", "disable_grouping", "return_tensors", "input_data_format", "do_reduce_labels", "reduce_labels", "num_channels",
}  # fmt: skip
"""Settings that make no difference to the pixels of a picture."""
HEEDED = {
    "size", "crop_size", "default_to_square", "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "resample",
    "rescale_factor", "image_mean", "image_std", "crop_pct", "rescale_offset", "include_top", "do_flip_channel_order",
}  # fmt: skip


def _square(edge: int) -> dict[str, int]:
    return {"height": edge, "width": edge}


def _kind(size: Any, colors: tuple[list[float], list[float]], resample: int = BICUBIC, **own: Any) -> dict[str, Any]:
    """What a kind of image processor does where its configuration is silent."""
    usual = {"do_resize": True, "do_center_crop": False, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    form = {"do_convert_rgb": False, "default_to_square": "height" in size}
    return {**usual, **form, "size": size, "image_mean": colors[0], "image_std": colors[1], "resample": resample, **own}


def _cropped(edge: int, crop: int, colors: tuple[list[float], list[float]], **own: Any) -> dict[str, Any]:
    return _kind({"shortest_edge": edge}, colors, **{"do_center_crop": True, "crop_size": _square(crop), **own})


KINDS: Mapping[str, Mapping[str, Any]] = {
    USUAL: _kind(_square(224), HALF, BILINEAR),
    "BeitImageProcessor": _kind(_square(224), HALF, crop_size=_square(224)),
    "BitImageProcessor": _cropped(224, 224, OPENAI, do_convert_rgb=True),
    "BlipImageProcessor": _kind(_square(384), OPENAI, do_convert_rgb=True),
    "ChineseCLIPImageProcessor": _cropped(224, 224, OPENAI, do_convert_rgb=True),
    "CLIPImageProcessor": _cropped(224, 224, OPENAI, do_convert_rgb=True),
    "ConvNextImageProcessor": _kind({"shortest_edge": 384}, HALF, crop_pct=224 / 256),
    "DeiTImageProcessor": _kind(_square(256), HALF, do_center_crop=True, crop_size=_square(224)),
    "EfficientNetImageProcessor": _kind(_square(346), HALF, crop_size=_square(289), rescale_offset=False, include_top=True),
    "LevitImageProcessor": _cropped(224, 224, IMAGENET),
    "MobileNetV1ImageProcessor": _cropped(256, 224, HALF, resample=BILINEAR),
    "MobileNetV2ImageProcessor": _cropped(256, 224, HALF, resample=BILINEAR),
    "MobileViTImageProcessor": _cropped(224, 256, HALF, do_normalize=False, do_flip_channel_order=True),
    "PoolFormerImageProcessor": _cropped(224, 224, IMAGENET, crop_pct=0.9),
    "PvtImageProcessor": _kind(_square(224), IMAGENET),
    "SegformerImageProcessor": _kind(_square(512), IMAGENET, BILINEAR),
    "SiglipImageProcessor": _kind(_square(224), HALF, do_convert_rgb=True, default_to_square=False),
}  # fmt: skip
"""Image processors whose way is known, with what they do where a configuration is silent."""


def completed(given: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A processor's settings in full, as its library would read them; without a file the model's configuration decides.

    Raises:
        ValueError: the processor or one of its settings is none that is known.
    """
    values = {name: value for name, value in given.items() if value is not None and (name, value) != CHANNELS_FIRST}
    kind = _kind_of(values, config)
    defaults = KINDS.get(kind)
    if defaults is None:
        raise ValueError(f"the image processor '{kind}' is none that is known here: {', '.join(KINDS)}")
    if strange := sorted(name for name in set(values) - HEEDED - UNHEEDED if values[name] is not False):
        raise ValueError(
            f"the setting '{strange[0]}' ({values[strange[0]]!r:.60}) is none that is known here: take it out if it does nothing"
        )
    kept = {name: value for name, value in values.items() if name in HEEDED}
    found = {**defaults, **_of_model(config, bare=not given), **kept, KIND: kind}
    found["size"] = _spelled(found["size"], square=found["default_to_square"])
    if found["do_center_crop"]:
        found["crop_size"] = _spelled(found.get("crop_size", found["size"]), square=True)
    for name in ("image_mean", "image_std"):
        value = found[name]
        found[name] = [
            float(each) for each in (value if isinstance(value, Sequence) else [value] * config.get("num_channels", 3))
        ]
    return found


def _kind_of(values: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The class that the library would take: by its name, an old one's, or the model's kind."""
    named = values.get(KIND) or str(values.get("feature_extractor_type", "")).replace("FeatureExtractor", "ImageProcessor")
    if not named and values and config.get("model_type"):
        from transformers.models.auto import image_processing_auto as library

        names: Any = vars(library)["IMAGE_PROCESSOR_MAPPING_NAMES"]
        known = names.get(config["model_type"]) or {}
        named = known.get("torchvision") or known.get("pil")
    return str(named or ("ConvNextImageProcessor" if "crop_pct" in values else USUAL)).removesuffix("Fast").removesuffix("Pil")


def _of_model(config: Mapping[str, Any], *, bare: bool) -> dict[str, Any]:
    """What a model's configuration says of its pictures: their channels, and all where there is no processor's."""
    channels = config.get("num_channels", 3)
    gray = {"image_mean": [0.5] * channels, "image_std": [0.5] * channels} if channels != 3 else {}
    if not bare:
        return gray
    size, dinov2 = config.get("image_size", 224), config.get("model_type") == "dinov2"
    colors = {"image_mean": IMAGENET[0], "image_std": IMAGENET[1]} if dinov2 and not gray else gray
    return {"size": _spelled(size, square=True), **colors}


def _spelled(value: Any, *, square: bool) -> dict[str, int]:
    """A size as `{height, width}` or `{shortest_edge}`, however old its spelling."""
    if isinstance(value, int | float):
        value = _square(int(value)) if square else {"shortest_edge": value}
    elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    found = {name: number for name, number in value.items() if number is not None} if isinstance(value, Mapping) else {}
    if set(found) not in ({"height", "width"}, {"shortest_edge"}):
        raise ValueError(f"a size is {value!r:.60}, expected height and width, or shortest_edge")
    return {name: int(number) for name, number in found.items()}


def resized(values: Mapping[str, Any], edge: int) -> dict[str, Any]:
    """Settings in full, changed so that pictures end with edges of so many pixels: what a crop leaves of a picture stays the same share.

    Raises:
        ValueError: this processor does not come to that size.
    """
    before = shape_of(steps_of(values))
    if values["do_center_crop"]:
        scaled = {name: round(number * edge / before[1]) for name, number in values["size"].items()}
        found = {**values, "size": scaled, "crop_size": _square(edge)}
    else:
        found = {**values, "do_resize": True, "size": _square(edge) if "height" in values["size"] else {"shortest_edge": edge}}
    if (made := shape_of(steps_of(found))[1:]) != (edge, edge):
        raise ValueError(f"size: {edge} makes {made[0]} x {made[1]} pixels of a picture, by {values[KIND]}")
    return found


# ------------------------------------------------------------------ steps


def steps_of(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is done to a picture, in order, from settings in full: JSON values, by the names in `inputs.image.STEPS`.

    Raises:
        ValueError: pictures would not all have one size, or a number is none.
    """
    channels = len(values["image_mean"])
    if channels not in (1, 3) or channels != len(values["image_std"]):
        raise ValueError(f"{channels} means and {len(values['image_std'])} deviations; images have 1 or 3 channels")
    _check_numbers(values)
    transparent = "white" if values["do_convert_rgb"] else "kept"
    steps: list[dict[str, Any]] = [{"do": "turn upright"}]
    steps += [{"do": "convert", "mode": "L" if channels == 1 else "RGB", "transparent": transparent}]
    if values["do_resize"]:
        steps += _resizing(values)
    elif not values["do_center_crop"] and "height" in values["size"]:
        steps += [{"do": "check size", "size": [values["size"]["height"], values["size"]["width"]]}]
    if values["do_center_crop"]:
        steps += [_crop(values["crop_size"])]
    if "size" not in steps[-1]:
        raise ValueError(f"these settings do not give all images the same size ({values['size']}, no centre crop)")
    return [*steps, {"do": "to array"}, *_coloring(values)]


def _check_numbers(values: Mapping[str, Any]) -> None:
    """Refuse what would make no picture, or pixels that are no numbers."""
    sizes = {name: values[name] for name in ("size", "crop_size") if isinstance(values.get(name), Mapping)}
    for name, each in sizes.items():
        if not all(1 <= edge <= MOST_EDGE for edge in each.values()):
            raise ValueError(f"{name} is {each}, expected edges of 1 to {MOST_EDGE} pixels")
    if values["resample"] not in range(6):
        raise ValueError(f"resample is {values['resample']!r:.40}, expected a number of Pillow's filters, 0 to 5")
    for name in ("rescale_factor", "image_std"):
        numbers = values[name] if isinstance(values[name], Sequence) else [values[name]]
        if not all(math.isfinite(each) and each for each in map(float, numbers)):
            raise ValueError(f"{name} is {values[name]!r:.60}, expected numbers that are not 0")
    if not all(map(math.isfinite, values["image_mean"])):
        raise ValueError(f"image_mean is {values['image_mean']!r:.60}, expected numbers")


def _resizing(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A resize as the kind of processor does it, with the crop that is a part of it."""
    kind, size, share = values[KIND], values["size"], float(values.get("crop_pct", 1))
    edge = size.get("shortest_edge")
    if kind == "ConvNextImageProcessor":
        if edge is None:
            raise ValueError(f"crop_pct goes with a shortest_edge, found {size}")
        if edge >= UNCROPPED:
            return [_resize(values, _square(edge))]
        return [_resize(values, {"shortest_edge": int(edge / share)}), _crop(_square(edge))]
    if kind == "LevitImageProcessor" and edge:
        return [_resize(values, {"shortest_edge": int((256 / 224) * edge)})]
    if kind == "PoolFormerImageProcessor":
        one = edge or (size["height"] if size["height"] == size["width"] else None)
        wider = {"shortest_edge": int(one / share)} if one else {name: int(each / share) for name, each in size.items()}
        return [_resize(values, wider)]
    return [_resize(values, size)]


def _resize(values: Mapping[str, Any], size: Mapping[str, int]) -> dict[str, Any]:
    to = size if "shortest_edge" in size else {"size": [size["height"], size["width"]]}
    return {"do": "resize", "resample": int(values["resample"]), **to}


def _crop(size: Mapping[str, int]) -> dict[str, Any]:
    if "height" not in size:
        raise ValueError(f"crop_size is {size}, expected height and width")
    return {"do": "crop", "size": [size["height"], size["width"]]}


def _coloring(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is done to the numbers of the pixels."""
    steps: list[dict[str, Any]] = []
    kind, std = values[KIND], [float(each) for each in values["image_std"]]
    if values["do_rescale"]:
        offset = -1.0 if kind == "EfficientNetImageProcessor" and values.get("rescale_offset") else 0.0
        steps += [{"do": "rescale", "factor": float(values["rescale_factor"]), "offset": offset}]
    if values["do_normalize"] and kind != "MobileViTImageProcessor":
        steps += [{"do": "normalize", "mean": [float(each) for each in values["image_mean"]], "std": std}]
    if kind == "EfficientNetImageProcessor" and values.get("include_top"):
        steps += [{"do": "normalize", "mean": [0.0] * len(std), "std": std}]
    if kind == "MobileViTImageProcessor" and values.get("do_flip_channel_order"):
        steps += [{"do": "flip channels"}]
    return steps


def shape_of(steps: Sequence[Mapping[str, Any]]) -> tuple[int, int, int]:
    """Channels, height and width of what the steps make."""
    height, width = [step["size"] for step in steps if "size" in step][-1]
    mode = next(step["mode"] for step in steps if "mode" in step)
    return (1 if mode == "L" else 3, int(height), int(width))
