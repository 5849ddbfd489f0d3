"""What holds for libraries and networks: modules that are described, built without weights, and loaded to the bit."""

from __future__ import annotations

from typing import Any

from compressor.contracts import Library
from compressor.errors import CompressorError
from compressor.store.store import digest_of
from compressor.testing.subject import Subject, Unchecked
from compressor.testing.tiny import short_lived


def describes_its_modules(subject: Subject) -> None:
    """A module of its own is named, its configuration is JSON, and no other library calls it its own."""
    from compressor.model.libraries import library_of

    for module in _modules(subject):
        with subject.during("name_of"):
            name, _ = library_of(module)
        expected = "networks" if subject.kind == "network" else subject.name
        subject.require(name == expected, f"its module {type(module).__name__} is taken for one of '{name}'")


def builds_without_weights(subject: Subject) -> None:
    """From its description a module is built on meta, with the same tensors, ties and buffers; random states stay as they were."""
    import torch

    from compressor.model.blueprint import blueprint_of

    for module in _modules(subject):
        state = torch.get_rng_state()
        with subject.during("building a module from its description"):
            built = blueprint_of(module).build()
        subject.require(torch.equal(torch.get_rng_state(), state), "draws from the caller's generator while it builds")
        subject.require(all(each.is_meta for each in built.parameters()), "builds parameters with values; make them on meta")
        subject.require(not any(each.is_meta for each in built.buffers()), "leaves buffers on meta: nothing fills them again")
        subject.require(_shapes(built) == _shapes(module), "builds other tensors than the module has")
        subject.require(_ties(built) == _ties(module), f"builds other tied weights: {_ties(built)} for {_ties(module)}")


def loads_to_the_bit(subject: Subject) -> None:
    """A module that is saved comes back with equal tensors, also in bf16, and is saved to equal bytes again."""
    import torch

    from compressor.model.model import Model

    for module in _modules(subject):
        for dtype in (torch.float32, torch.bfloat16):
            model = Model.wrap(module.to(dtype))
            with short_lived() as folder, subject.during("saving and loading"):
                model.save(folder / "first")
                loaded = Model.load(folder / "first")
                loaded.save(folder / "second")
                same = digest_of(folder / "first") == digest_of(folder / "second")
            subject.require(same, f"a module in {dtype} is saved to other bytes once it was loaded")
            tensors = [{**dict(each.named_parameters()), **dict(each.named_buffers())} for each in (module, loaded.module)]
            differing = [name for name, tensor in tensors[0].items() if not torch.equal(tensor, tensors[1][name])]
            subject.require(not differing, f"other values once loaded, in {dtype}: {', '.join(differing[:3])}")


def refuses_what_it_does_not_define(subject: Subject) -> None:
    """Names that are no model class of its own are refused, with an error of the project's own."""
    library: Library = subject.plugin()
    for name in ("os", "__import__", "../evil", "no-such-class", ""):
        try:
            library.find(name, {})
        except CompressorError:
            continue
        except Exception as error:
            subject.require(False, f"refuses the class '{name}' with {type(error).__name__}: {error}; raise SourceError")
        subject.require(False, f"finds a class called '{name}'")


LIBRARY = (describes_its_modules, builds_without_weights, loads_to_the_bit, refuses_what_it_does_not_define)
NETWORK = (describes_its_modules, builds_without_weights, loads_to_the_bit)


def _modules(subject: Subject) -> list[Any]:
    """Small modules of a library, or of a network by each of its examples.

    Raises:
        Unchecked: it has none.
    """
    if subject.kind == "network":
        with subject.during("making its examples"):
            examples: tuple[dict[str, Any], ...] = getattr(subject.plugin, "examples", ({},))
            return [subject.plugin(**example) for example in examples]
    with subject.during("tiny"):
        module = subject.plugin().tiny()
    if module is None:
        raise Unchecked("it has no module to try it with")
    return [module.train(False)]


def _shapes(module: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _ties(module: Any) -> dict[str, str]:
    first: dict[int, str] = {}
    return {
        name: first[id(each)]
        for name, each in module.named_parameters(remove_duplicate=False)
        if first.setdefault(id(each), name) != name
    }
