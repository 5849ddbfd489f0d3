"""Whose head a classifier has: known by the weights in its folder; its classes are held against the data's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from compressor.contracts.model import CONFIG
from compressor.errors import SourceError
from compressor.foreign import alike, plain
from compressor.model.configurations import config_in
from compressor.model.pretrained import from_folder
from compressor.model.sources import read_json, shapes_in

Problem: TypeAlias = Literal["single_label_classification", "multi_label_classification", "regression"]
"""What a head answers, as `problem_type` of a configuration of transformers spells it."""

SINGLE: Problem = "single_label_classification"
TASKS: Mapping[str, str] = {
    SINGLE: "one class of a row",
    "multi_label_classification": "any number of classes of a row (`multi_label: true`)",
    "regression": "a number of a row (a task of regression)",
}
SAME_NAMES = {"ForTokenClassification": "each token", "ForMultipleChoice": "which of several texts"}
"""How classes end whose heads' weights are called as a classifier's, in some families; and what they answer."""
SETFIT = "model_head.pkl"
SHOWN = 20
"""Labels that a line names."""
HEADLESS = "take the model without its head (`AutoModel.from_pretrained(FOLDER).save_pretrained(OTHER)`, and its other files beside it) for a new one"
KINDS = "ForSequenceClassification"
"""What HuBERT and wav2vec 2.0 end their classifiers' names with, beside what texts have."""


@dataclass(frozen=True)
class Head:
    """The head that a folder gives to a classifier of the data's labels."""

    labels: tuple[str, ...]
    """Of the data, in order; one unnamed where the answer is a number."""
    order: tuple[int, ...] = ()
    """For each label the row of the trained head; empty where the head is fresh."""
    drawn: tuple[str, ...] = ()
    """Parameters that the folder lacks, and that are newly initialised."""
    unused: tuple[str, ...] = ()
    """Weights in the folder that a classifier of this kind has no place for."""

    @property
    def trained(self) -> bool:
        """Whether its weights were in the folder."""
        return bool(self.order)

    def __str__(self) -> str:
        """One line for `check`."""
        further = len(self.labels) - SHOWN
        shown = ", ".join(self.labels[:SHOWN]) + (f" and {further} more" if further > 0 else "")
        of = f"for {shown}" if self.labels != ("",) else "for a number"
        left = f"; {len(self.unused)} weights are not used ({_listed(self.unused)})" if self.unused else ""
        if self.order:
            moved = "" if list(self.order) == sorted(self.order) else ", put into the data's order"
            return f"has its own head {of}{moved}{left}"
        return f"has no head: a newly initialised one {of} is put in, and has to be trained{left}"


def load_classifier(
    auto: Any, source: Path, labels: Sequence[str], *, seed: int, problem: Problem = SINGLE
) -> tuple[Any, tuple[str, ...]]:
    """The model in `source` in float32 and eval mode, its classes named and ordered as `labels`; and parameters that are newly initialised.

    Args:
        auto: the class of transformers that picks the architecture, as `AutoModelForSequenceClassification`.
        source: a folder in Hugging Face layout with safetensors.
        labels: the data's labels, in order; a single empty one where the answer is a number.
        seed: of a fresh head; torch's own generator is left as it was.
        problem: what the head answers.

    Raises:
        SourceError: the folder cannot be read, has a head for other labels or of another kind, or lacks weights of the model itself.
    """
    config = _configured(source, labels, problem)
    module, found = from_folder(auto, source, config, seed=seed, other_sizes=True)  # told below, with the names
    head = _head(auto, module, found, source, labels, problem)
    if head.order and list(head.order) != sorted(head.order):
        _reorder(module, head.order)
    return module.eval(), head.drawn


def head_in(auto: Any, source: Path, labels: Sequence[str], *, problem: Problem = SINGLE) -> tuple[Head, Any]:
    """What `load_classifier` would find in a folder, and the module on meta: of its weights only names and shapes are read.

    Raises:
        SourceError: as `load_classifier` does.
    """
    config = _configured(source, labels, problem)
    module, found = from_folder(auto, source, config, other_sizes=True, device_map={"": "meta"})
    return _head(auto, module, found, source, labels, problem), module


def _configured(source: Path, labels: Sequence[str], problem: Problem) -> Any:
    """The folder's configuration, made one for these labels."""
    config = config_in(source)
    if labels != ("",):
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: number for number, name in enumerate(labels)}
    else:
        config.num_labels = 1
    if problem != SINGLE or getattr(config, "problem_type", None) not in (None, SINGLE):
        config.problem_type = problem
    return config


def _head(auto: Any, module: Any, found: Mapping[str, Any], source: Path, labels: Sequence[str], problem: Problem) -> Head:
    """Read off what the library found: a head is trained where all that follows the number of labels was in the file."""
    declared, missing = read_json(source / CONFIG), sorted(found["missing_keys"])
    unused, sized = sorted(found["unexpected_keys"]), _sized_by_labels(module, len(labels))
    trained = not sized & set(missing)
    _check_shapes(found["mismatched_keys"], sized if trained else frozenset(), source)
    if not trained:
        _check_complete(module, missing, unused, source, headed=_claims(auto, declared) or not sized <= set(missing))
        _check_no_other_head(module, declared, unused, source)
        return Head(tuple(labels), (), tuple(missing), tuple(unused))
    _check_complete(module, missing, unused, source, headed=True)
    _check_of_rows(auto, declared, source)
    if (kind := declared.get("problem_type") or problem) != problem:
        answers = TASKS.get(kind, str(kind)) if _takes_texts(auto) else str(TASKS.get(kind, kind)).partition(" (")[0]
        raise SourceError(
            f"{source} has a head that answers {answers}, the task asks for {TASKS[problem]}: choose the task of its head, or {HEADLESS}"
        )
    rows = next((has[0] for name, has, _ in found["mismatched_keys"] if name in sized), len(labels))
    if rows == 1 and labels != ("",):
        raise SourceError(
            f"{source} has a head of one output, which tells a number, or yes and no by a threshold; the task asks for {TASKS[problem]}: "
            f"choose a task of regression, or {HEADLESS}"
        )
    if labels == ("",):
        return Head(("",), (_only(rows, declared, source),), (), tuple(unused))
    names = _names(declared, rows, source, labels)
    return Head(tuple(labels), tuple(_order(names, labels, source, named=any(_declared(declared)))), (), tuple(unused))


# ------------------------------------------------------------------ names of classes


def _names(declared: Mapping[str, Any], rows: int, source: Path, labels: Sequence[str] = ()) -> list[str]:
    """Names of a head's classes in the order of its rows; where it has none of its own numbers, or what labels of the data are made up so.

    Raises:
        SourceError: config.json names other rows than there are, or names them in two ways.
    """
    by_number, by_name = _declared(declared)
    if by_number and by_name and by_number != by_name:
        raise SourceError(
            f"{source / CONFIG}: id2label says {_some(list(by_number.values()))} and label2id says {_some(list(by_name.values()))} "
            "in this order: mend the one that is wrong"
        )
    made_up = [f"LABEL_{number}" for number in range(rows)]
    unnamed = made_up if set(labels) == set(made_up) else list(map(str, range(rows)))
    found = by_number or by_name or {str(number): name for number, name in enumerate(unnamed)}
    if found.keys() != {str(number) for number in range(rows)}:
        raise SourceError(
            f"{source / CONFIG} names the classes {_some(list(found))} by number, and its head has rows 0 to {rows - 1}"
        )
    return [found[str(number)] for number in range(rows)]


def _declared(declared: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Names by number, as id2label and as label2id have them."""
    by_name = ((number, name) for name, number in _mapping(declared.get("label2id")).items())
    return _told(_mapping(declared.get("id2label")).items()), _told(by_name)


def _told(pairs: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    """Names by number, in the order of the numbers; none where they are made up."""
    found = {_number(number): str(name).strip() for number, name in pairs if name is not None}
    return {} if _generic(found) else {number: found[number] for number in sorted(found, key=lambda each: (len(each), each))}


def _number(value: Any) -> str:
    """As it is spelled, but that a whole number is whole."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _generic(names: Mapping[str, str]) -> bool:
    """Whether they are those that transformers makes up."""
    return all(name == f"LABEL_{number}" for number, name in names.items())


def _order(names: Sequence[str], labels: Sequence[str], source: Path, *, named: bool) -> list[int]:
    """For each label of the data the row of the trained head."""
    if sorted(names) != sorted(labels):
        raise SourceError(
            f"{source} classifies {_some(sorted(names))}, the data has {_some(sorted(labels))}: not the same labels"
            f"{_likeness(names, labels)}; {_advice(names, labels, named=named)}, or {HEADLESS}"
        )
    return [names.index(name) for name in labels]


def _likeness(names: Sequence[str], labels: Sequence[str]) -> str:
    """Two of them that look the same, where there are such."""
    known = {plain(name): name for name in names}
    return next((f" ({why})" for label in labels if (why := alike(known.get(plain(label), label), label))), "")


def _advice(names: Sequence[str], labels: Sequence[str], *, named: bool) -> str:
    if len(names) != len(labels) or named:
        told = ", ".join(f"{number} {name}" for number, name in enumerate(names[:5]))
        numbered = set(labels) == set(map(str, range(len(names))))
        return f"rename those of the data{f' (its head counts {told}; if your numbers mean the same, rename them so)' if numbered else ''}"
    return f"its {len(names)} classes have no names: write them into {CONFIG}, as id2label, in the order that it was trained with"


def _only(rows: int, declared: Mapping[str, Any], source: Path) -> int:
    if rows != 1:
        told = _some(_names(declared, rows, source))
        raise SourceError(
            f"{source} classifies {told}, the task asks for {TASKS['regression']}: choose a task of classes, or {HEADLESS}"
        )
    return 0


def _some(names: Sequence[str]) -> str:
    return f"{list(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


# ------------------------------------------------------------------ weights


def _sized_by_labels(module: Any, count: int) -> frozenset[str]:
    """Parameters with a row for each label: those that are longer in a model of one label more."""
    from compressor.model.libraries import library_of

    _, library = library_of(module)
    config = library.config_of(module)
    names = {str(number): f"LABEL_{number}" for number in range(count + 1)}
    label2id = {name: int(number) for number, name in names.items()}
    larger = library.build(type(module), {**config, "id2label": names, "label2id": label2id}).state_dict()
    return frozenset(name for name, tensor in module.state_dict().items() if tensor.shape[:1] != larger[name].shape[:1])


def _check_shapes(mismatched: Collection[Any], known: Collection[str], source: Path) -> None:
    """A head of another number of classes is told by its names; anything else contradicts the configuration."""
    for name, has, expected in sorted(mismatched):
        if name not in known:
            raise SourceError(f"{source}: {name} is {list(has)} in the weights and {list(expected)} by config.json")


def _takes_texts(auto: Any) -> bool:
    """Whether there are tasks for each kind of answer, as those on texts are."""
    return str(auto.__name__).endswith(KINDS)


def _claims(auto: Any, declared: Mapping[str, Any]) -> bool:
    """Whether the configuration says that the folder holds a classifier of the kind."""
    kinds = (auto.__name__.removeprefix("AutoModel"), KINDS)
    return any(str(name).endswith(kinds) for name in _names_of_classes(declared))


def _check_of_rows(auto: Any, declared: Mapping[str, Any], source: Path) -> None:
    """Refuse a head that answers something else under the same names of weights: each token, or which of several texts."""
    name = next((str(each) for each in _names_of_classes(declared) if str(each).endswith(tuple(SAME_NAMES))), None)
    if name and not _claims(auto, declared):
        what = next(what for end, what in SAME_NAMES.items() if name.endswith(end))
        raise SourceError(
            f"{source} has the head of a {name}, which answers {what}, by {CONFIG}: take `architectures` and the head's weights out "
            "to have a fresh one"
        )


def _names_of_classes(declared: Mapping[str, Any]) -> Sequence[Any]:
    """`architectures`, where it is a list."""
    found = declared.get("architectures")
    return found if isinstance(found, list) else []


def _check_complete(module: Any, missing: Sequence[str], unused: Sequence[str], source: Path, *, headed: bool) -> None:
    """A fresh head, and a fresh pooler below it, are newly initialised; anything else that is not in the file must not be made up."""
    if lacking := [name for name in missing if headed or not _of_head(name, _trunk(module))]:
        raise SourceError(
            f"{source} lacks {len(lacking)} weights of {type(module).__name__}: {_listed(lacking)}{_spelled_otherwise(missing, unused)}"
        )


def _spelled_otherwise(missing: Sequence[str], unused: Sequence[str]) -> str:
    """What the names in the file have that the model's have not."""
    for name in unused:
        for wanted in missing:
            prefix = name.removesuffix(wanted)
            if prefix != name and sum(f"{prefix}{each}" in unused for each in missing) > len(missing) // 2:
                return (
                    f"; they are there under names that begin with '{prefix}', as a wrapper around the model saves them: "
                    "save the model inside it (`save_pretrained`), or take the prefix off the names"
                )
    return f"; it has {_listed(unused)}, which that class does not know" if unused else ""


def _check_no_other_head(module: Any, declared: Mapping[str, Any], unused: Sequence[str], source: Path) -> None:
    """Refuse a trained head of a class that transformers does not have: dropping it would throw away what was learned."""
    if (pickled := source / SETFIT).is_file():
        raise SourceError(
            f"{pickled} is the head that SetFit trained, a pickle, which is not read: take it out of the folder to have a fresh head"
        )
    names = _mapping(declared.get("id2label"))
    if not names or _generic({str(number): str(name) for number, name in names.items()}):
        return
    shapes = shapes_in(source)
    if other := next((name for name in unused if len(shapes.get(name, ())) == 2 and shapes[name][0] == len(names)), None):
        raise SourceError(
            f"{source} classifies {_some([str(name) for name in names.values()])} by '{other}', which {type(module).__name__} has no "
            "place for: save it as a model of that class, or take the names of classes out of config.json to have a fresh head"
        )


def _trunk(module: Any) -> str:
    """The child that holds the model itself; a few classes do not call it by the prefix of their family."""
    if hasattr(module, module.base_model_prefix):
        return str(module.base_model_prefix)
    sizes = {str(name): sum(each.numel() for each in child.parameters()) for name, child in module.named_children()}
    return str(max(sizes, key=lambda name: sizes[name]))


def _of_head(name: str, trunk: str) -> bool:
    """Whether a parameter stands beside the trunk, or in the pooler that ends it."""
    return not name.startswith(f"{trunk}.") or "pooler" in name.split(".")


def _reorder(module: Any, order: Sequence[int]) -> None:
    """Put the classes of a trained head into the data's order."""
    import torch

    state = module.state_dict(keep_vars=True)
    with torch.no_grad():
        for name in _sized_by_labels(module, len(order)):
            state[name].copy_(state[name][list(order)])
