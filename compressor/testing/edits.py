"""What holds for edits: data that comes back, the same change on any device, models that load to the bit, refusals."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from compressor.contracts import Edit, Feed
from compressor.errors import UnsupportedModel
from compressor.store.store import digest_of
from compressor.testing.subject import Subject
from compressor.testing.tiny import short_lived, tiny_feed, tiny_model

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from compressor.model.model import Model


def is_data(subject: Subject) -> None:
    """It is named as its entry point is, described in one line, comes back equal from JSON, and takes no unknown field."""
    edit: Edit = subject.plugin
    kind = type(edit)
    subject.require(kind.kind == subject.name, f"its `kind` is '{kind.kind}': saved models look for the entry point of that name")
    with subject.during("describe"):
        described = edit.describe()
    subject.require(bool(described.strip()) and "\n" not in described, f"describes itself as {described!r}, expected one line")
    with subject.during("its way through JSON"):
        again = kind.model_validate_json(edit.model_dump_json())
    subject.require(again == edit, f"comes back from JSON as {again!r}, was {edit!r}")
    try:
        kind.model_validate({**edit.model_dump(), "no_such_field": 1})
    except ValidationError:
        return
    subject.require(False, 'takes an unknown field; keep `extra="forbid"` of Edit')


def changes_alike_on_meta(subject: Subject) -> None:
    """A module on meta gets the same names and shapes as one with weights."""
    import torch

    edit: Edit = subject.plugin
    real: Any = tiny_model(edit.tried_on).module
    meta: Any = copy.deepcopy(real).to(torch.device("meta"))
    before = _shapes(real)
    for module, where in ((real, "a module"), (meta, "a module on meta")):
        with subject.during(f"apply on {where}"):
            edit.apply(module)
    subject.require(
        _shapes(real) == _shapes(meta), f"makes {_differing(_shapes(real), _shapes(meta))} other on meta than with weights"
    )
    stays = all(tensor.is_meta for tensor in meta.parameters())
    subject.require(stays, "puts parameters with values into a module on meta; make new ones on the device of the old")
    changed = _shapes(real) != before or not _equal(real, tiny_model(edit.tried_on).module)
    subject.require(changed, f"changes nothing in the tiny model '{edit.tried_on}'; give `examples` that do")


def loads_to_the_bit(subject: Subject) -> None:
    """A model with it computes finite outputs, the same ones to the bit once saved and loaded, and saves to equal bytes again."""
    import numpy as np

    from compressor.model.model import Model

    edit: Edit = subject.plugin
    feed = tiny_feed(edit.tried_on)
    model = tiny_model(edit.tried_on)
    given = len(model.edits)
    with short_lived() as folder:
        with subject.during("Model.apply, save and load"):
            model.apply(subject.plugin)
            model.save(folder / "first")
            loaded = Model.load(folder / "first")
            loaded.save(folder / "second")
        subject.require(
            digest_of(folder / "first") == digest_of(folder / "second"), "a model with it saves to other bytes each time"
        )
    subject.require(loaded.edits[given:] == (edit,), f"a loaded model has the edits {loaded.edits}")
    with subject.during("running a model with it"):
        before, after = (_logits(each, feed) for each in (model, loaded))
    subject.require(bool(np.isfinite(before).all()), "a model with it has outputs that are not finite")
    subject.require(np.array_equal(before, after), "a model with it computes something else once it is saved and loaded")


def _logits(model: Model, feed: Feed) -> NDArray[Any]:
    import torch

    with torch.no_grad():
        given = model.module(**{name: torch.from_numpy(array) for name, array in feed.items()})
    found: NDArray[Any] = getattr(given, "logits", given).numpy()  # a network of ours answers with its tensor alone
    return found


def refuses_what_it_does_not_fit(subject: Subject) -> None:
    """A module that it does not fit is left as it is, with an UnsupportedModel."""
    import torch

    edit: Edit = subject.plugin
    module = torch.nn.Sequential(torch.nn.Linear(3, 3))
    before = _shapes(module)
    try:
        edit.apply(module)
    except UnsupportedModel:
        subject.require(_shapes(module) == before, "changes a module before it refuses it")
        return
    except Exception as error:
        subject.require(False, f"refuses a module with {type(error).__name__}: {error}; raise UnsupportedModel")
    subject.require(False, "does not refuse a module that has none of what it names")


EDIT = (is_data, changes_alike_on_meta, loads_to_the_bit, refuses_what_it_does_not_fit)


def _shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _differing(first: dict[str, tuple[int, ...]], second: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))[:3])


def _equal(module: torch.nn.Module, source: torch.nn.Module) -> bool:
    """Whether two modules of equal shapes have the same values and are made of the same classes."""
    import torch

    values = source.state_dict()
    kinds = [[type(part) for part in each.modules()] for each in (module, source)]
    return kinds[0] == kinds[1] and all(torch.equal(tensor, values[name]) for name, tensor in module.state_dict().items())
