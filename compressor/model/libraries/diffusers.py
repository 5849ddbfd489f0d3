"""Models of diffusers: single ones, and pipelines of several components with a scheduler's files beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from compressor.contracts import Library, Loaded, registry
from compressor.contracts.model import CONFIG
from compressor.errors import MissingDependency, SourceError
from compressor.foreign import told
from compressor.model.configurations import harmless, nothing_fetched
from compressor.model.meta import BUILDING_ERRORS, on_meta
from compressor.model.sources import PIPELINE, beside, holds_weights, read_json

DENOISERS = ("transformer", "unet")
"""What pipelines of diffusers call the component that is called at every step."""


class Diffusers(Library):
    """Model classes that diffusers itself defines."""

    weights: ClassVar[str] = "diffusion_pytorch_model.safetensors"

    def name_of(self, module: Any) -> str | None:
        """The name of its class."""
        cls = type(module)
        if not cls.__module__.startswith("diffusers."):
            return None
        try:
            return cls.__name__ if self.find(cls.__name__, {}) is cls else None
        except SourceError:
            return None

    def find(self, class_name: str, config: Mapping[str, Any]) -> type:  # noqa: ARG002 - a name is enough here
        """Looked up among what diffusers offers."""
        diffusers = _diffusers()
        found = getattr(diffusers, class_name, None) if class_name.isidentifier() else None
        if isinstance(found, type) and issubclass(found, diffusers.ModelMixin) and found.__module__.startswith("diffusers."):
            return found
        raise SourceError(f"'{class_name}' is not a model class of diffusers {diffusers.__version__}; only those are built")

    def build(self, cls: Any, config: Mapping[str, Any], *, attention: str | None = None) -> Any:  # noqa: ARG002
        """By its configuration; fields that the class does not know are passed over."""
        try:
            with on_meta(), _quiet(), nothing_fetched():
                return cls.from_config(harmless(config, cls.__name__))
        except BUILDING_ERRORS as error:
            raise SourceError(f"{cls.__name__} cannot be built from its configuration: {told(error)}") from error

    def config_of(self, module: Any) -> dict[str, Any]:
        """As the library writes it."""
        values: dict[str, Any] = json.loads(module.to_json_string())
        values.pop("_name_or_path", None)
        return values

    def reads(self, folder: Path) -> bool:
        """It is a pipeline's, or its configuration names a class of the library."""
        if (folder / PIPELINE).is_file():
            return True
        return (folder / CONFIG).is_file() and "_class_name" in read_json(folder / CONFIG)

    def load(self, folder: Path) -> Loaded:
        """Every component that has weights by its own library's loader; what has none lies beside them."""
        if not (folder / PIPELINE).is_file():
            return Loaded({"model": self._load(folder)}, beside(folder))
        modules: dict[str, Any] = {}
        files = [name for name in beside(folder) if (folder / name).is_file()]
        for name, library in _components(folder):
            if not holds_weights(folder / name):
                files += [f"{name}/{each}" for each in beside(folder / name)]
            elif library not in registry.names("library"):
                raise SourceError(
                    f"{folder / PIPELINE}: component '{name}' is of '{library}', whose models are not read "
                    f"(only those of {', '.join(registry.names('library'))}): a pipeline without it names it as [null, null]"
                )
            else:
                modules[name] = registry.load("library", library)().load(folder / name).modules["model"]
        if not modules:
            raise SourceError(f"{folder / PIPELINE} names no component with weights")
        return Loaded(modules, tuple(files), _main(modules))

    def _load(self, folder: Path) -> Any:
        import torch

        config = harmless(read_json(folder / CONFIG), folder / CONFIG)  # what it leaves out no class of diffusers reads
        cls: Any = self.find(str(config.get("_class_name", "")), {})
        try:
            with torch.random.fork_rng(devices=[]), _quiet(), nothing_fetched():
                module, found = cls.from_pretrained(
                    folder, use_safetensors=True, local_files_only=True, torch_dtype=torch.float32, output_loading_info=True
                )
        except Exception as error:  # what a malformed folder makes the library raise can be anything
            raise SourceError(f"{folder} cannot be read as a model: {told(error)}") from error
        if lacking := sorted(found["missing_keys"]):
            raise SourceError(f"{folder} lacks {len(lacking)} weights of {cls.__name__}: {', '.join(lacking[:3])}")
        return module.train(False)

    def tiny(self) -> Any:
        """A U-Net of two levels, the lower with attention, for one channel."""
        shape = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 4}
        levels = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
        return _diffusers().UNet2DModel(**shape, **levels, block_out_channels=(8, 16))


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise MissingDependency(
            f"models of diffusers need it installed: pip install 'compressor-toolchain[diffusion]' ({error})"
        ) from error
    return diffusers


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that diffusers writes about fields of configurations."""
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _components(folder: Path) -> Iterator[tuple[str, str]]:
    """Names of a pipeline's parts with the libraries they are of."""
    for name, value in read_json(folder / PIPELINE).items():
        if name.startswith("_") or not isinstance(value, list) or value == [None, None]:
            continue
        if not (len(value) == 2 and all(isinstance(each, str) for each in value) and (folder / name).parent == folder):
            raise SourceError(f"{folder / PIPELINE}: '{name}' is {value!r:.60}, expected a library and a class")
        yield name, value[0]


def _main(modules: Mapping[str, Any]) -> str:
    if len(modules) == 1:
        return next(iter(modules))
    return next((name for name in DENOISERS if name in modules), "model")
