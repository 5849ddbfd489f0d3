"""The parts of a plan that are not plug-ins, as frozen data: where models and data come from, and what gates ask for.

Relative paths in them are relative to the folder of the plan file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from compressor.contracts.described import Described
from compressor.contracts.records import Kind, Workload

PLAN_VERSION: Literal[1] = 1

Sha256: TypeAlias = Annotated[str, Field(pattern="^[0-9a-f]{12,64}$")]
"""A sha256 in lower-case hexadecimal, or its first 12 digits or more."""

NAME = "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
Name: TypeAlias = Annotated[str, Field(pattern=NAME)]
"""A name that can stand in a file name, in `--set a.b=c` and in `stage@target`."""


MadeName: TypeAlias = Annotated[str, Field(pattern=rf"{NAME[:-1]}(\.{NAME[1:-1]})?$")]
"""Name of a model: a step's, an entry's of `models:`, `source`, or `STEP.NAME` for a further model that a step makes."""


class Spec(Described):
    """Frozen part of a plan; an unknown key is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def one_of(spec: Spec, *fields: str) -> str:
    """The one field among `fields` that is given.

    Raises:
        ValueError: none of them is given, or several are.
    """
    given = [field for field in fields if getattr(spec, field) is not None]
    if len(given) != 1:
        found = f"found {' and '.join(given)}" if given else "found none"
        raise ValueError(f"expected one of {', '.join(fields)}; {found}")
    return given[0]


class ModelSource(Spec):
    """Where a model comes from: `folder: ./my-model`, `installed: package, path: model`, or `hub: org/name, revision: abc`."""

    folder: str | None = Field(default=None, min_length=1)
    """A local folder in Hugging Face layout (config.json, model.safetensors, tokenizer files)."""
    installed: str | None = Field(default=None, min_length=1)
    """Import name of an installed package that carries the model; it is found, never imported."""
    path: str = ""
    """Folder inside the installed package."""
    hub: str | None = Field(default=None, min_length=1)
    """Id on the Hugging Face hub; remote code is never run."""
    revision: str | None = Field(default=None, min_length=1)
    """Commit, tag or branch on the hub."""
    sha256: Sha256 | None = None
    """sha256 of model.safetensors (of weights in several files: of the index and those files, one after another), or its start."""

    @model_validator(mode="after")
    def _one_source(self) -> ModelSource:
        kind = one_of(self, "folder", "installed", "hub")
        if self.path and kind != "installed":
            raise ValueError(f"'path' goes with 'installed', not with '{kind}'")
        if self.revision and kind != "hub":
            raise ValueError(f"'revision' goes with 'hub', not with '{kind}'")
        return self


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _as_files(value: Any) -> Any:
    return {"path": value} if isinstance(value, str | list) else value


Filled: TypeAlias = Annotated[str, Field(min_length=1)]

Paths: TypeAlias = Annotated[tuple[Filled, ...], BeforeValidator(_as_tuple, json_schema_input_type=Filled | list[Filled])]
"""One path or a list of them. What is there by that name is read; else `*` and `?` match names, hidden ones not. `[` is no pattern."""


class Files(Spec):
    """Data in files. `files: a.csv` and `files: [a.csv, b.csv]` are short for `files: {path: ...}`."""

    path: Paths = ()
    """Files or folders that hold all rows, or the training rows where `test` or `validation` is given too."""
    train: Paths = ()
    """Another word for `path` when splits are given by hand."""
    validation: Paths = ()
    """Files or folders of the validation split."""
    test: Paths = ()
    """Files or folders of the test split."""
    installed: str | None = Field(default=None, min_length=1)
    """Import name of an installed package that all paths lie in; it is found, never imported."""
    layout: Literal["files", "folder-per-label"] = "files"
    """`folder-per-label`: each folder directly below a path is a label, each file below it a row."""
    sha256: Sha256 | None = None
    """sha256 of the data read, as the report states it, or its first 12 digits or more."""

    @model_validator(mode="after")
    def _has_rows_to_train_on(self) -> Files:
        if self.path and self.train:
            raise ValueError("expected one of path, train; found both")
        if not (self.path or self.train):
            raise ValueError("expected 'path' (all rows) or 'train'; found none")
        return self

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Paths by split as given; `train` holds all rows where the other splits are still to be cut from it."""
        parts = {"train": self.train or self.path, "validation": self.validation, "test": self.test}
        return {name: paths for name, paths in parts.items() if paths}


def _separator(value: Any) -> Any:
    if isinstance(value, str) and (len(value) != 1 or value in '\r\n"'):
        raise ValueError(f'found {value!r}, expected one character, as "," or ";" or "\\t" (a tab, in double quotation marks)')
    return value


def _encoding(value: Any) -> Any:
    for name in value if isinstance(value, list) else [value]:
        if isinstance(name, str):
            try:
                "a".encode(name)
            except (LookupError, ValueError) as error:
                raise ValueError(
                    f"found {name!r}, expected an encoding that Python knows, as utf-8, latin-1 or cp1252"
                ) from error
    return _as_tuple(value) if isinstance(value, list) else value


Encodings: TypeAlias = Annotated[tuple[Filled, ...], Field(min_length=1)]


Share: TypeAlias = Annotated[float, Field(gt=0)]
"""Below 1 a fraction of the rows, from 1 on a whole number of rows."""


class Split(Spec):
    """How much is cut from the training rows for splits that the source lacks: a fraction (0.1) or a number of rows (200)."""

    validation: Share = 0.1
    """Gates, sensitivity and early stopping see these rows."""
    test: Share = 0.2
    """Verdicts see these rows, nothing before them does."""

    @model_validator(mode="after")
    def _adds_up(self) -> Split:
        for name, share in (("validation", self.validation), ("test", self.test)):
            if share >= 1 and share != int(share):
                raise ValueError(f"'{name}' is a fraction below 1 or a whole number of rows; found {share}")
        if self.validation < 1 and self.test < 1 and self.validation + self.test >= 1:
            raise ValueError(f"validation and test take {self.validation + self.test:g} of the rows; nothing is left to train on")
        return self


class Limit(Spec):
    """At most so many rows of a split, drawn by the seed."""

    train: int | None = Field(default=None, ge=1)
    """Of the training rows; all where it is not given."""
    validation: int | None = Field(default=None, ge=1)
    """Of the validation rows; all where it is not given."""
    test: int | None = Field(default=None, ge=1)
    """Of the test rows; all where it is not given."""


class DataSpec(Spec):
    """Where the rows come from and how they are split."""

    files: Annotated[Files, BeforeValidator(_as_files, json_schema_input_type=Filled | list[Filled] | Files)] | None = None
    """A path, a list of paths, or a mapping with `path` or `train`, `validation`, `test`, and `installed`, `layout`, `sha256`."""
    hub: str | None = Field(default=None, min_length=1)
    """Id of a data set on the Hugging Face hub; loading scripts are never run."""
    config: str | None = Field(default=None, min_length=1)
    """Name of the data set's configuration on the hub."""
    revision: str | None = Field(default=None, min_length=1)
    """Commit, tag or branch on the hub."""
    format: Literal["csv", "json", "parquet", "text", "audiofolder", "imagefolder"] | None = None
    """Format of the files; seen from their extensions where it is not given."""
    separator: Annotated[str, Field(pattern=r'^[^\r\n"]$'), BeforeValidator(_separator)] | None = None
    """What stands between the fields of csv; a comma where it is not given, in files named .tsv a tab."""
    quoting: Literal["minimal", "none"] | None = None
    """Of csv. `minimal`: fields may stand in quotation marks; `none`: quotation marks are part of the text. Unset: `minimal`, but where
    tabs separate fields `none`, and a field that both begins and ends with one is an error there, since it could be either."""
    encoding: Annotated[str | Encodings, BeforeValidator(_encoding)] | None = None
    """Of files of text; utf-8 where it is not given. A list, where files differ: each is read in the first one that fits all of it."""
    root: str | None = Field(default=None, min_length=1)
    """A folder: rows and links may name the files below it too, and relative paths in the rows of a table start there. Where it is not
    given, only what lies beside the table or below the folder of data is read."""
    deduplicate: bool | None = None
    """Of rows with equal normalised content and equal label keep one. Unset: before splits are cut, and rows shared by given splits are an error;
    true: within and across given splits too, test before validation before train; false: never, and a row that could come to
    stand in two splits is an error. The report counts what was removed."""
    split: Split = Split()
    """Shares of the splits that the source does not have."""
    calibration: int = Field(default=256, ge=1)
    """Rows of train that quantisation is calibrated with."""
    limit: Limit = Limit()
    """Upper bounds on the rows of each split."""

    @model_validator(mode="after")
    def _one_source(self) -> DataSpec:
        kind = one_of(self, "files", "hub")
        for key in ("config", "revision"):
            if kind != "hub" and getattr(self, key):
                raise ValueError(f"'{key}' goes with 'hub', not with 'files'")
        for key in ("format", "separator", "quoting", "encoding", "root"):
            if kind == "hub" and getattr(self, key):
                raise ValueError(f"'{key}' goes with 'files', not with 'hub'")
        return self


class Limits(Spec):
    """What a gate may ask for; at least one of the limits is given."""

    max_drop: float | None = Field(default=None, ge=0)
    """What may be lost against the plan's reference: points (hundredths) of a fraction or a distance, per cent of any other metric."""
    metric: str | None = Field(default=None, min_length=1)
    """The metric that `max_drop` is about, and whose unit it is in; the plan's `metric` where it is not given."""
    max_class_drop: float | None = Field(default=None, ge=0, le=100)
    """Most points of recall that any single class may lose against the plan's reference."""
    min_speedup: float | None = Field(default=None, gt=0)
    """Least speed-up over the source model on the same target."""
    max_latency_ms: float | None = Field(default=None, gt=0)
    """Greatest median latency of one call, in milliseconds."""
    max_size: float | None = Field(default=None, gt=0, le=10)
    """Greatest share of the reference's bytes: 0.25 is a quarter."""
    judged_by: Literal["point", "bound"] = "point"
    """Whether the measured value decides, or the worse end of its 95 % interval. By `point`, a limit on speed or latency that lies
    within the interval is undecided: noise could explain either side."""

    @model_validator(mode="after")
    def _limits_something(self) -> Limits:
        limits = ("max_drop", "max_class_drop", "min_speedup", "max_latency_ms", "max_size")
        if all(getattr(self, limit) is None for limit in limits):
            raise ValueError(f"no limit given; expected at least one of {', '.join(limits)}")
        if self.metric is not None and self.max_drop is None:
            raise ValueError("'metric' says what 'max_drop' is about; give max_drop, or leave metric out")
        return self

    @property
    def drop_limit(self) -> str | None:
        """Name of a limit on what may be lost against the plan's reference; None where none is given."""
        return next((name for name in ("max_drop", "max_class_drop") if getattr(self, name) is not None), None)

    @property
    def timed(self) -> bool:
        """True where a limit needs latency to be measured."""
        return self.min_speedup is not None or self.max_latency_ms is not None


class Gate(Limits):
    """What a step has to keep, judged on validation data right after it."""

    on_fail: Literal["stop", "roll back", "warn"] = "stop"
    """End the run, go on from the model before the step, or go on and say so."""


class Accept(Limits):
    """What the final model has to keep on a target, judged on test data."""

    target: Name
    """Name of a target of the plan."""
    against: Name | None = None
    """Target on which the source model is the baseline of the speed-up; the same target where it is not given."""
    batch: int | None = Field(default=None, ge=1)
    """Batch size at which latency counts; the first one that is measured where it is not given."""
    length: int | None = Field(default=None, ge=1)
    """Input length at which latency counts; the first one that is measured where it is not given."""
    workload: Kind | None = None
    """What a call does whose latency counts; the first kind that is measured where it is not given."""
    on_fail: Literal["stop", "warn"] = "stop"
    """`warn`: say so, and accept all the same."""

    def fits(self, workload: Workload) -> bool:
        """Whether latency at a workload is what its limits speak of."""
        wanted = ((self.workload, workload.kind), (self.batch, workload.batch), (self.length, workload.length))
        return all(asked in (None, measured) for asked, measured in wanted)


class EntryKeys(Spec):
    """What may stand beside the plug-in of a target or probe."""

    name: Name | None = None
    """Name in this plan; the plug-in's own where it is not given."""


class StepKeys(EntryKeys):
    """What may stand beside the pass of a step."""

    start: MadeName | None = Field(default=None, alias="from")
    """Start from this earlier step, entry of `models:` or `source`, instead of from the step before."""
    gate: Gate | None = None
    """What the step has to keep, on validation data."""
    only: tuple[Name, ...] | None = Field(default=None, min_length=1)
    """Targets in whose branches the step runs; all of them where it is not given."""


def _readable(version: Any) -> Any:
    if isinstance(version, int) and version > PLAN_VERSION:
        raise ValueError(f"found {version}, this program reads plans of version {PLAN_VERSION}: update compressor-toolchain")
    return version


class Head(Spec):
    """The single values at the top of a plan."""

    version: Annotated[Literal[1], BeforeValidator(_readable)] = PLAN_VERSION
    """Version of the plan language; raised when a plan comes to mean something else."""
    name: Name | None = None
    """Name of the plan; its file name where it is not given."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of everything that is drawn."""
    reference: Name = "source"
    """What quality is held against: `source` or a step's name. A model with a newly initialised head is no reference."""
    metric: str | None = Field(default=None, min_length=1)
    """The measure that quality is held by, of those that the task has; its first one where it is not given."""
    stages: Literal["all", "quality"] = "all"
    """`all`: each stage is scored and timed; `quality`: stages before the last are scored only."""
