"""What lies beside a model that draws: the process it was trained on, how it is sampled, and what it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from compressor.contracts import Feed, Model
from compressor.contracts.described import Described
from compressor.errors import SourceError, UnsupportedModel
from compressor.foreign import told
from compressor.tasks.generation.latents import COMPONENT, decoded_shape
from compressor.tasks.generation.process import TIME_SCALE, Process
from compressor.tasks.generation.samplers import Sampling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = "diffusion.json"
GRAPH = "model"
SCHEDULER = "scheduler/scheduler_config.json"
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
"""What networks tell, as schedulers of diffusers spell it."""
OURS = frozenset({"size", "channels", "classes", "patch", "width", "blocks", "heads"})
"""What the configuration of a network of ours has."""
NETWORKS = ("UNet2DModel", "DiTTransformer2DModel")
"""Of diffusers, which take a picture, times and labels, and nothing else."""


Decibels = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
"""Below -100 spectra tell nothing apart: see `inputs.spectra.SILENT`."""


class Sound(Described):
    """How sounds become pictures of one channel: log-mel spectra, mels by frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: Annotated[int, Field(ge=1000, le=192_000)] = 16_000
    """Samples a second; mels reach up to half of it in Hz, and no higher than 8000."""
    window: Annotated[int, Field(ge=16, le=65_536)] = 1024
    """Samples that a frame is of."""
    hop: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Samples from one frame to the next: the height and width of what a network draws are mels and frames, so it says how long sounds are."""
    low: Decibels = -80.0
    """Decibels, against a tone of height 1, that are -1 in a spectrum; what is more silent is too."""
    high: Decibels = -20.0
    """Decibels that are 1."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.hop > self.window:
            raise ValueError(f"hop: {self.hop}: samples between frames of {self.window} would be left out")
        if self.low >= self.high:
            raise ValueError(f"low: {self.low:g}: expected less than high, {self.high:g}")
        return self


class Description(Described):
    """A model that draws."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, int, int]
    """Channels, height and width of what the network draws."""
    decoded: tuple[int, int, int] | None = None
    """The same of what a decoder beside it makes of that, where it draws latents."""
    sound: Sound | None = None
    """What rows are spectra of sounds by; None where they are pictures."""
    classes: Annotated[int, Field(ge=0)]
    """Labels that it knows; 0 where it knows none."""
    empty: Annotated[int, Field(ge=0)] | None = None
    """The label that says nothing; None where there is none, so that nothing can be guided."""
    spans: bool = False
    """Whether the network is told how far a step goes."""
    scales: bool = False
    """Whether the network is told how far it is guided."""
    stepped: bool = False
    """Whether it was taught what to tell of long steps, which rows do not say."""
    depths: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Blocks that it runs, by even bins of the time from the clean row to noise; empty where all run."""
    process: Process = Process()
    """What it was trained on."""
    sampling: Sampling = Sampling()
    """How it is sampled."""
    policy: Policy | None = None
    """Whether a teacher beside it mends some of its rows."""

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a row, which a decoder may have made."""
        return self.decoded or self.shape

    @property
    def in_pairs(self) -> bool:
        """Whether it is guided by two outputs, one of them without its label."""
        return self.sampling.guidance != 1 and not self.scales

    def known(self, labels: Sequence[int]) -> list[int]:
        """Labels as the network takes them: of one that knows none, each is the one that says nothing."""
        return list(labels) if self.classes else [self.empty or 0] * len(labels)

    def table(self, steps: int | None = None) -> NDArray[np.float64]:
        """The table that it is sampled by; `steps` where they should be others than its own."""
        return self.sampling.table(self.process, steps, told=self.scales, depths=self.depths)

    def graphs(self, network: str = GRAPH) -> tuple[str, ...]:
        """Names of the graphs of a network: `model` runs most blocks, and `model-3` 3."""
        fewer = sorted(set(self.depths) - {max(self.depths, default=0)}, reverse=True)
        return (network, *(graph_of(each, network) for each in fewer))

    def feed(self, seeds: Sequence[int] | NDArray[Any], labels: Sequence[int] | NDArray[Any], table: NDArray[Any]) -> Feed:
        """What rows are drawn from, by their numbers and labels and a sampler's table."""
        import numpy as np

        from compressor.tasks.inputs.sampling import noise_of

        start = np.float32(self.process.grid(1).sigma[0])  # as in the example of an export, to the bit
        return {
            "noise": start * noise_of(seeds, self.shape),
            "seed": np.asarray(seeds, dtype=np.int64),
            "label": np.asarray(labels, dtype=np.int64),
            "empty": np.full(len(seeds), self.empty or 0, dtype=np.int64),
            "table": table.astype(np.float32),
            **({} if self.policy is None else self.policy.arrays()),
            **({} if self.decoded is None else {"decoded": np.array(self.decoded, dtype=np.int64)}),
        }

    @property
    def evaluations(self) -> float:
        """How often the network is asked for one row; with a teacher's evaluations as a mean over the rows that the policy was made by."""
        own = self.sampling.evaluations(told=self.scales)
        return own if self.policy is None else own + self.policy.share * self.policy.evaluations

    def shipped(self) -> dict[str, Any]:
        """What whoever draws by an exported model is told: the table with names of its columns, and what the rest of a feed is."""
        from compressor.tasks.inputs.sampling import COLUMNS

        return {
            "columns": list(COLUMNS),
            "table": self.table().astype("float32").tolist(),
            "shape": list(self.shape),
            "start": float(self.process.grid(1).sigma[0]),
            "classes": self.classes,
            "empty": self.empty or 0,
            "evaluations": self.evaluations,
            **({} if self.decoded is None else {"decoded": list(self.decoded)}),
            **({} if self.sound is None else {"sound": self.sound.model_dump(mode="json")}),
            **({} if self.policy is None else {name: each.tolist() for name, each in self.policy.arrays().items()}),
        }

    def written(self) -> bytes:
        """As a file; equal descriptions give equal bytes."""
        return (json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()


class Policy(Described):
    """When a teacher is asked, and what it does: Starodubcev et al., CVPR 2024, arXiv:2312.10835."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: Annotated[float, Field(ge=0, le=1)]
    """Of the rows that the limit was chosen by, so many are mended."""
    limit: Annotated[float, Field(le=0)]
    """Rows are mended that an oracle likes less: the logarithm of a probability."""
    tied: Annotated[float, Field(ge=0, le=1)]
    """Of rows that it likes exactly so much, this share is."""
    after: Annotated[int, Field(ge=0)]
    """Steps of the teacher's that are left out: it goes on from noised rows, or draws them anew where it is 0."""
    teacher: Description
    """How the teacher draws."""

    @property
    def evaluations(self) -> int:
        """How often the teacher's network is asked for a row that it mends."""
        return len(self.table()) * (2 if self.teacher.in_pairs else 1)

    def table(self) -> NDArray[np.float64]:
        """What is left of the teacher's table."""
        how = self.teacher
        return how.sampling.table(how.process, told=how.scales, depths=how.depths, after=self.after)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """What a feed carries of it, see `inputs.sampling.adapted`."""
        import numpy as np

        level = self.teacher.process.grid(self.teacher.sampling.steps)[self.after]
        alpha, sigma = (float(level.alpha), float(level.sigma)) if self.after else (0.0, 0.0)
        return {
            "policy": np.array([self.limit, self.tied, alpha, sigma], dtype=np.float32),
            "teacher_table": self.table().astype(np.float32),
        }


Description.model_rebuild()


def graph_of(blocks: int, network: str = GRAPH) -> str:
    """The name of the graph of a network that a table asks for."""
    return f"{network}-{blocks}" if blocks else network


def blocks_of(module: Any, graph: str) -> int | None:
    """How many blocks of a network a graph runs; None where that is no choice."""
    depths: tuple[int, ...] = getattr(module, "depths", ())
    return int(graph.rpartition("-")[2]) if "-" in graph else max(depths, default=None)


def described(files: Model | Path) -> Description:
    """What lies beside a model, or in its folder.

    Raises:
        SourceError: it is missing or malformed.
    """
    try:
        content = (files / FILE).read_bytes() if isinstance(files, Path) else files.files[FILE]
        return Description.model_validate_json(content)
    except (KeyError, OSError) as error:
        raise SourceError(
            f"there is no {FILE} beside the model, which says how it draws: it is written when a task loads the model"
        ) from error
    except ValidationError as error:
        raise SourceError(f"{FILE} is malformed: {error}") from error


def settled(
    model: Model,
    source: Path,
    process: Process | None,
    sampling: Mapping[str, Any],
    *,
    labels: int | None = None,
    sounds: bool = False,
    sound: Sound | None = None,
) -> Description:
    """What a source model says of itself, with what a plan says of a model that says nothing, and how the plan samples it.

    The data has so many `labels`, and is of `sounds` or of pictures.

    Raises:
        SourceError: the plan's process or spectra are others, it draws no such rows, its process has fewer levels than there are to be steps, or
            a model is guided that cannot be.
        UnsupportedModel: what it draws, or how, is not known here.
    """
    if FILE in model.files:
        found, known = described(model), True
    else:
        shape, classes, empty = facts_of(model.module, labels)
        own = scheduled(model.files)
        known = own is not None
        found = Description(shape=shape, classes=classes, empty=empty, process=own or process or Process())
        found = found.model_copy(update={"sound": (sound or Sound()) if sounds else None})
    if known and process is not None and process != found.process:
        raise SourceError(f"{source} was trained on another process than `process:` says: leave it out")
    if (found.sound is not None) != sounds or (sound is not None and sound != found.sound):
        what = "spectra of sounds by other settings than `sound:` says" if sounds and found.sound else "something else"
        raise SourceError(f"{source} was trained on {what}")
    sampled = Sampling.model_validate({**found.sampling.model_dump(), **sampling})
    found.process.grid(sampled.steps)
    if sampled.guidance != 1 and found.empty is None:
        raise SourceError(f"guidance: {sampled.guidance:g}: {source} has no label that says nothing, so it cannot be guided")
    rows = decoded_shape(model, found.shape, source)
    if found.decoded is not None and rows is None:
        raise SourceError(f"{source} draws latents, and the `{COMPONENT}` that decodes them is not there")
    return found.model_copy(update={"sampling": sampled, "decoded": rows})


def facts_of(module: Any, labels: int | None = None) -> tuple[tuple[int, int, int], int, int | None]:
    """Shape, classes, and the label that says nothing, of a network: one of ours, or of diffusers.

    A `UNet2DModel` does not say whether its last label is one that says nothing: it is not where data has as many `labels` as it knows.

    Raises:
        UnsupportedModel: it is another one.
    """
    config: Mapping[str, Any] = module.config
    if "classes" in config:
        known = config["classes"]
        return _shape(config["channels"], config["size"]), known, known
    if type(module).__name__ not in NETWORKS or config.get("class_embed_type") is not None:
        raise UnsupportedModel(
            f"{type(module).__name__} is no network that draws pictures of a class: those of ours and {' and '.join(NETWORKS)} of diffusers do"
        )
    size, channels = config.get("sample_size"), config["in_channels"]
    if size is None:
        raise UnsupportedModel(f"{type(module).__name__} does not say `sample_size`: what it draws is not known")
    shape = _shape(channels, size)
    if (classes := config.get("num_embeds_ada_norm")) is not None:  # DiT of diffusers, whose label embedding has one more
        return shape, int(classes), int(classes)
    told = config.get("num_class_embeds") or 0
    if not told or told == labels:
        return shape, told, None
    return shape, told - 1, told - 1


def _shape(channels: int, size: int | Sequence[int]) -> tuple[int, int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return channels, int(height), int(width)


def draws(config: Mapping[str, Any]) -> bool:
    """Whether a model's configuration is that of a network that draws: of `facts_of`."""
    return config.get("_class_name") in NETWORKS or config.keys() >= OURS


def output_of(module: Any, sample: Any, time: Any, label: Any, **others: Any) -> Any:
    """What a network tells: one of ours, which may be told a `span` and a `scale` too where they are not None, or of diffusers."""
    if not hasattr(module, "load_config"):
        return module(sample, time, label, **{name: each for name, each in others.items() if each is not None})
    for each in module.modules() if module.training else ():
        if hasattr(each, "token_drop"):  # it would leave out labels by itself, other ones in each block
            each.train(False)
    labelled = "num_class_embeds" not in module.config or module.config["num_class_embeds"]
    found = module(sample, time, **({"class_labels": label} if labelled else {})).sample
    return found[:, : sample.shape[1]]  # DiT of diffusers tells a variance after it


def scheduled(files: Mapping[str, bytes]) -> Process | None:
    """The process of a pipeline of diffusers, by its scheduler's file; None where there is none.

    Raises:
        UnsupportedModel: it is of a kind that is not known here.
    """
    if SCHEDULER not in files:
        return None
    try:
        values = json.loads(files[SCHEDULER])
        return _process(values, str(values["_class_name"]))
    except (ValueError, TypeError, KeyError) as error:
        raise UnsupportedModel(f"{SCHEDULER} says no process that is known here: {told(error)}") from error


def _process(values: Mapping[str, Any], name: str) -> Process:
    if name.startswith("FlowMatch"):
        if (levels := values.get("num_train_timesteps", TIME_SCALE)) != TIME_SCALE:
            raise ValueError(f"times are told in parts of {levels}, not in thousandths")
        return Process(kind="flow", prediction="flow")
    if name.startswith("EDM"):
        if (prediction := values.get("prediction_type", "epsilon")) != "epsilon":
            raise ValueError(f"prediction_type {prediction}")  # its network tells the negative
        named = {each: values[each] for each in ("sigma_min", "sigma_max", "sigma_data") if each in values}
        return Process(kind="edm", prediction="edm", **named)
    if values.get("rescale_betas_zero_snr") or values.get("trained_betas") is not None:
        raise ValueError("betas of its own")
    if (told_by := values.get("timestep_type", "discrete")) != "discrete":
        raise ValueError(f"timestep_type {told_by}")
    given = {
        "prediction": PREDICTIONS[values.get("prediction_type", "epsilon")],
        "betas": values["beta_schedule"],
        "beta_start": values["beta_start"],
        "beta_end": values["beta_end"],
        "levels": values["num_train_timesteps"],
    }
    return Process.model_validate({"kind": "betas", **given})
