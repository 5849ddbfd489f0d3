"""What a forward pass hands out: the main output, and features of its inside that were asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from compressor.contracts.renamed import notice
from compressor.contracts.tokens import Later, TokenLogits

if TYPE_CHECKING:
    import torch

FeatureKind: TypeAlias = Literal[
    "hidden-state", "attention-map", "attention-score", "attention-update", "attention-norm", "query", "key", "value", "router"
]
"""`hidden-state`: what leaves a block, `[B, T, D]`; `attention-map`: `[B, H, T, T]`, `attention-score`: the same before its softmax;
`attention-update`: what attention adds to the residual stream, `[B, T, D]`; `attention-norm`: what leaves the first norm after that, `[B, T, D]`;
`query`, `key`, `value`: `[B, T, heads * size]`, before positions are turned into them; `router`: logits of experts, `[B, T, E]`."""


FORMER_KINDS: Mapping[str, FeatureKind] = {"attention_output": "attention-update"}
"""Old names of kinds, `_` for `-`, which go on working with a notice."""


def _kind(name: FeatureKind, *, depth: int = 3) -> FeatureKind:
    """A kind by its name of today."""
    now = FORMER_KINDS.get(name.replace("-", "_"), name)
    if now != name:
        notice(f"feature '{name}'", f"'{now}'", depth=depth)
    return now


@dataclass(frozen=True)
class Feature:
    """A feature of one block."""

    kind: FeatureKind
    block: str
    """Id of a block; for hidden states the anatomy's stack stands for what enters the first block."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", _kind(self.kind, depth=4))

    def __str__(self) -> str:
        return f"{self.kind} of {self.block}"


@dataclass(frozen=True, init=False)
class Want:
    """Which features a forward pass should hand out, each once, in order."""

    features: tuple[Feature, ...]

    def __init__(
        self, features: Iterable[Feature] = (), *, hidden_states: Iterable[str] = (), attention_maps: Iterable[str] = ()
    ) -> None:
        """Any features; hidden states and attention maps by block id."""
        states = (Feature("hidden-state", block) for block in hidden_states)
        maps = (Feature("attention-map", block) for block in attention_maps)
        object.__setattr__(self, "features", tuple(dict.fromkeys((*features, *states, *maps))))

    def __bool__(self) -> bool:
        return bool(self.features)

    def __or__(self, other: Want) -> Want:
        return Want((*self.features, *other.features))

    @property
    def hidden_states(self) -> tuple[str, ...]:
        """Ids of the blocks whose hidden states are wanted."""
        return self.of("hidden-state")

    @property
    def attention_maps(self) -> tuple[str, ...]:
        """Ids of the blocks whose attention maps are wanted."""
        return self.of("attention-map")

    def of(self, kind: FeatureKind) -> tuple[str, ...]:
        """Ids of the blocks whose features of a kind are wanted."""
        known = _kind(kind)
        return tuple(feature.block for feature in self.features if feature.kind == known)


class Main:
    """The main output of `Outputs`: a tensor, or what it is computed from when somebody first reads it."""

    def __get__(self, outputs: Outputs | None, _owner: object) -> torch.Tensor:
        if outputs is None:
            raise AttributeError("main")  # a field without a default
        held = vars(outputs)
        if "read" not in held:
            held["read"] = held["main"] if outputs.later is None else outputs.later.whole()
        found: torch.Tensor = held["read"]
        return found

    def __set__(self, outputs: Outputs, value: torch.Tensor | Later) -> None:
        vars(outputs)["main"] = value


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a forward pass gave."""

    main: Main = Main()
    """Logits `[B, classes]`, or whatever the task's models put out first. Where it is given as something to compute later
    (`TokenLogits`, say), it is computed when it is first read: what looks at a few tokens at a time asks `later`."""
    features: Mapping[Feature, torch.Tensor] = field(default_factory=dict)
    mask: torch.Tensor | None = None
    """Which tokens are valid, `[B, T]`, as the features have them."""

    @property
    def logits(self) -> torch.Tensor:
        """The main output by its older name."""
        return self.main

    @property
    def later(self) -> Later | None:
        """The main output where it is put off."""
        held = vars(self)["main"]
        return held if isinstance(held, Later) else None

    @property
    def tokens(self) -> TokenLogits | None:
        """The main output where it is put off, and a head's work on states that can be learned."""
        held = vars(self)["main"]
        return held if isinstance(held, TokenLogits) else None

    @property
    def device(self) -> torch.device:
        """Where the main output lies."""
        found: torch.device = vars(self)["main"].device
        return found

    def with_features(self, features: Mapping[Feature, torch.Tensor]) -> Outputs:
        """The same with other features; a main output that is put off stays so."""
        return Outputs(vars(self)["main"], features, self.mask)

    @property
    def hidden_states(self) -> Mapping[str, torch.Tensor]:
        """Hidden states by block id."""
        return self.of("hidden-state")

    @property
    def attention_maps(self) -> Mapping[str, torch.Tensor]:
        """Attention maps by block id."""
        return self.of("attention-map")

    def of(self, kind: FeatureKind) -> dict[str, torch.Tensor]:
        """Features of one kind by block id."""
        known = _kind(kind)
        return {feature.block: tensor for feature, tensor in self.features.items() if feature.kind == known}

    def having(self, kind: FeatureKind, tensors: Mapping[str, torch.Tensor]) -> Outputs:
        """The same with these features of one kind in the place of those it has."""
        known = _kind(kind)
        others = {feature: tensor for feature, tensor in self.features.items() if feature.kind != known}
        return self.with_features({**others, **{Feature(known, block): tensor for block, tensor in tensors.items()}})

    def chosen(self, want: Want) -> Outputs:
        """Only the features that are wanted, in the order in which they are."""
        return self.with_features({feature: self.features[feature] for feature in want.features})
