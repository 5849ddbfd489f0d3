"""What tasks on sounds share: decoding, feature extraction, feeds of one length; samples (wav2vec 2.0, HuBERT) or spectra (Whisper)."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from compressor.contracts import Batch, Deployment, Feature, Feed, Graph, InputSizes, Port, Task, Workload, sizes_of
from compressor.contracts.recipe import spread
from compressor.errors import MissingDependency, SourceError
from compressor.model.configurations import config_in
from compressor.tasks.batches import Batches, Feeds, alike, as_file, full_groups, grouped, order_of
from compressor.tasks.classification import SCORED_BATCH
from compressor.tasks.media import check_column
from compressor.tasks.preprocessing import MEL, PREPROCESSOR, RAW, SOUNDS, of_audio, sound_settings
from compressor.tasks.reading import column_of, each_row

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from numpy.typing import NDArray

    from compressor.contracts import Model
    from compressor.contracts.data import Data

PATCHES, STACKED = "ASTFeatureExtractor", "SeamlessM4TFeatureExtractor"
KINDS: Mapping[str, Mapping[str, Any]] = {
    **SOUNDS,
    PATCHES: {"sampling_rate": 16000, "num_mel_bins": 128, "max_length": 1024},
    STACKED: {"sampling_rate": 16000, "num_mel_bins": 80, "stride": 2},
}
"""Samples, spectra as Whisper has them, spectra of one length for all sounds, and spectra of several frames at a time: what each
takes where a configuration is silent."""
LONGEST = 30
"""Seconds: what Whisper has embeddings of position for."""
SHORTEST = 0.25
"""Seconds: a batch with a shorter sound is padded to this, as some models cannot take less."""
FRAME = 0.025
"""Seconds that the models here look at for one frame."""
MEASURED = 1000
"""Sounds of each split whose length is looked at."""
LOWEST_RATE = 8000
"""Samples a second of telephones, the least that models of speech are made for."""
OF_MODEL: Mapping[str, Mapping[str, str]] = {
    MEL: {"feature_size": "num_mel_bins"},
    PATCHES: {"max_length": "max_length", "num_mel_bins": "num_mel_bins"},
}
"""Settings of feature extractors that a model's configuration names too, by its name for them: equal, or the model takes no input."""
INSTALL = "pip install 'compressor-toolchain[audio]'"


class Sounds(Task):
    """Sounds of one length as the model's feature extractor makes inputs of them."""

    version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("transformers", "soundfile", "soxr")

    audio: str = Field(default="audio", description="Column of the sound.")
    seconds: float = Field(
        default=5.0, ge=FRAME, le=LONGEST, description="Length of all inputs: longer sounds are cut, shorter ones padded."
    )

    def encoded(self, data: Data) -> Data:
        """Rows as they are: their sounds are sounds."""
        check_column(data, self.audio, "Audio")
        return super().encoded(data)

    def refuses(self, length: int, files: Path | None = None) -> str | None:
        """Fewer samples than a frame has, which most likely are meant as tokens, or more than there are embeddings of position for.

        Where the model is not known, fewer than a frame has at the lowest rate in use.
        """
        values: dict[str, Any] = settings(files) if files else {"sampling_rate": LOWEST_RATE, "feature_extractor_type": RAW}
        rate = int(values["sampling_rate"])
        if length < FRAME * rate:
            second = f"{rate} is 1 s" if files else "16000 is 1 s at 16 kHz"
            return f"counts samples of sound, and {length} are less than one frame: {second}"
        if length > LONGEST * rate and values["feature_extractor_type"] == MEL:
            return f"counts samples of sound, and {length} are beyond the {LONGEST} s that the model has positions for: {rate} is 1 s"
        return None

    def sizes(self, data: Data, files: Path) -> InputSizes:  # noqa: ARG002 - heads of the sounds say it
        """Seconds of each sound."""
        parts = [data.split(name) for name in ("train", "validation", "test")]
        heard = [each for rows in parts for each in lengths(rows.select(spread(len(rows), MEASURED)), self.audio)]
        found = sizes_of(heard, limit=self.seconds, unit="seconds", of="sounds", parameter="seconds", computed=self.seconds)
        return found.model_copy(update={"fits": min(LONGEST, max(SHORTEST, math.ceil(found.p99 * 10) / 10))})

    def inputs(self, model: Model | Path) -> tuple[Port, ...]:
        """Samples `[batch, samples]` with their mask where the model heeds one, or spectra: `[batch, mels, frames]` for Whisper,
        `[batch, frames, mels]` for the audio spectrogram transformer, with a mask for wav2vec2-bert."""
        values = settings(model) if isinstance(model, Path) else json.loads(model.files[PREPROCESSOR])
        if values["feature_extractor_type"] == MEL:
            return (Port("input_features", "float32", ("batch", int(values["feature_size"]), "frames")),)
        if values["feature_extractor_type"] == PATCHES:
            return (Port("input_values", "float32", ("batch", int(values["max_length"]), int(values["num_mel_bins"]))),)
        if values["feature_extractor_type"] == STACKED:
            wide = int(values["num_mel_bins"]) * int(values["stride"])
            axes = ("batch", "frames")
            return (Port("input_features", "float32", (*axes, wide)), Port("attention_mask", "int64", axes))
        mask = (Port("attention_mask", "int64", ("batch", "samples")),) if values.get("return_attention_mask") else ()
        return (Port("input_values", "float32", ("batch", "samples")), *mask)

    def tiny(self, folder: Path) -> dict[str, Any]:
        """A tiny random model and its rows."""
        from compressor.tasks.tiny import audio_model, recordings

        audio_model(folder / "pretrained")
        return recordings(folder)

    def deployment(self, files: Path, inputs: Sequence[Port]) -> Deployment:  # noqa: ARG002 - the extractor says it
        """By the feature extractor; spectra that only its own library makes are given as arrays."""
        values = settings(files)
        kind, samples = values["feature_extractor_type"], round(self.seconds * int(values["sampling_rate"]))
        if kind not in SOUNDS:
            return Deployment(
                "arrays", {"extractor": PREPROCESSOR, "made_by": f"transformers.{kind}"}, classes=self.gives_logits()
            )
        return Deployment("audio", of_audio(values, samples=samples), classes=self.gives_logits())

    def feed(self, content: Any, files: Path) -> Feed:
        """Samples or spectra of one recording, given by its path or its bytes."""
        from datasets import Audio, Dataset, Features, Value

        # a file as the library keeps it: its own way to make one of a path decodes sounds by a package that is not needed here
        stored: Any = Features({self.audio: {"bytes": Value("binary"), "path": Value("string")}})
        row = Dataset.from_dict({self.audio: [as_file(content)]}, features=stored).cast_column(self.audio, Audio(decode=False))
        return self.feeds(row, files)[0]

    def example(self, files: Path, graph: Graph, *, batch: int, length: int) -> Feed:  # noqa: ARG002 - an export needs more than a few samples
        """A made-up sound of half a second."""
        import numpy as np

        samples = int(settings(files)["sampling_rate"]) // 2
        waves = [np.sin(np.arange(samples, dtype=np.float32) * (0.05 + 0.01 * number)) for number in range(batch)]
        return _extracted(settings(files), waves, samples)

    def batches(self, rows: Dataset, files: Path, *, batch_size: int, shuffle_seed: int | None = None) -> Iterable[Batch]:
        """Sounds of one length, decoded as they are asked for; `row` is the index in the split."""
        groups = grouped(order_of(len(rows), shuffle_seed), batch_size)
        return Batches(self._feeds(rows, files, groups), column_of(rows, self.columns().label))

    def feeds(self, rows: Dataset, files: Path, workload: Workload = Workload(), *, count: int | None = None) -> Sequence[Feed]:
        """Real sounds in full batches; the length is in samples, whatever the model makes of them.

        Raises:
            SourceError: the model takes no sound of that length.
        """
        if workload.length is not None and (why := self.refuses(workload.length, files)):
            raise SourceError(f"length {why}")
        return list(self._feeds(rows, files, full_groups(len(rows), workload.batch, count), workload.length))

    def scored_feeds(self, rows: Dataset, files: Path) -> tuple[Sequence[Feed], Sequence[int]]:
        """All rows in order, decoded as they are asked for."""
        order = range(len(rows))
        return self._feeds(rows, files, grouped(order, SCORED_BATCH)), order

    def _feeds(self, rows: Dataset, files: Path, groups: Sequence[Sequence[int]], length: int | None = None) -> Feeds:
        values, sounds = settings(files), undecoded(rows, self.audio)
        rate = int(values["sampling_rate"])
        samples = length or round(self.seconds * rate)

        def make(chosen: Sequence[int]) -> Feed:
            return _extracted(values, [decoded(sounds[number][self.audio], rate)[:samples] for number in chosen], samples)

        return Feeds(make, groups)

    def cropped_feeds(self, rows: Dataset, files: Path, batch_size: int, seed: int) -> Feeds:
        """Groups of sounds of like lengths, in an order drawn from `seed`; each sound is cropped at a place drawn from it too."""
        import numpy as np

        values, sounds = settings(files), undecoded(rows, self.audio)
        rate = int(values["sampling_rate"])
        most, least = round(self.seconds * rate), round(SHORTEST * rate)
        draw = np.random.default_rng(seed)
        seconds = lengths(rows, self.audio)
        groups = alike(seconds, batch_size, draw)
        places = draw.random(len(rows))

        def make(chosen: Sequence[int]) -> Feed:
            waves = [decoded(sounds[number][self.audio], rate) for number in chosen]
            samples = max(least, min(most, *(len(wave) for wave in waves)))
            starts = [int(places[number] * (max(len(wave) - samples, 0) + 1)) for number, wave in zip(chosen, waves, strict=True)]
            cut = [wave[start : start + samples] for start, wave in zip(starts, waves, strict=True)]
            return _extracted(values, cut, samples)

        return Feeds(make, groups)


def side_files(source: Path) -> dict[str, bytes]:
    """The settings of the feature extractor, checked, as they lie beside the model.

    Raises:
        SourceError: there are none, or they are of another kind.
    """
    values = settings(source)
    _check_model(values, config_in(source), source)
    if values["feature_extractor_type"] in SOUNDS:
        of_audio(values, samples=1)
    else:
        _extractor(json.dumps(values))
    return {PREPROCESSOR: (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()}


def _check_model(values: Mapping[str, Any], config: Any, source: Path) -> None:
    """Refuse a feature extractor that makes other sizes than its model takes.

    Raises:
        SourceError: it does.
    """
    for name, of_model in OF_MODEL.get(values["feature_extractor_type"], {}).items():
        if (taken := getattr(config, of_model, None)) not in (None, values[name]):
            raise SourceError(
                f"{source / PREPROCESSOR}: {name} is {values[name]}, and the model takes {taken} ({of_model} of its configuration): take "
                "the settings that it was trained with"
            )


def frames_of(features: Mapping[Feature, torch.Tensor]) -> int | None:
    """How many frames captured features have, `[B, T, D]` or attention maps `[B, H, T, T]`; None where nothing was captured."""
    return next((each.shape[-1 if feature.kind == "attention-map" else 1] for feature, each in features.items()), None)


def frame_mask(module: torch.nn.Module, mask: torch.Tensor, frames: int) -> torch.Tensor:
    """From a mask of samples to that of the frames which the module's convolutions make of them."""
    trunk: Any = getattr(module, getattr(module, "base_model_prefix", ""), module)
    found: torch.Tensor = trunk._get_feature_vector_attention_mask(frames, mask)
    return found


def decoded(content: Mapping[str, Any], sampling_rate: int) -> NDArray[np.float32]:
    """Samples of a sound file `{bytes, path}`, its channels averaged, resampled where it has another rate.

    Raises:
        SourceError: it cannot be read as a sound.
        MissingDependency: the libraries that read sounds are not installed.
    """
    try:
        from compressor.tasks.inputs.audio import wave_of
    except ImportError as error:
        raise MissingDependency(f"{error.name} is not installed: {INSTALL}") from error
    try:
        wave: NDArray[np.float32] = wave_of(content["path"] if content["bytes"] is None else content["bytes"], sampling_rate)
    except (OSError, RuntimeError) as error:  # what the library raises for a file that is no sound
        raise SourceError(f"{content['path'] or 'a row'} cannot be read as a sound: {error}") from error
    return wave


@lru_cache(maxsize=4)
def lengths(rows: Dataset, column: str) -> Sequence[float]:
    """Seconds of each sound, by the heads of the files; read once for a split."""
    import soundfile

    found = []
    for row in each_row(undecoded(rows.select_columns([column]), column)):
        given, path = row[column]["bytes"], row[column]["path"]
        try:
            head = soundfile.info(io.BytesIO(given) if given is not None else path)
        except (OSError, RuntimeError) as error:  # what the library raises for a file that is no sound
            raise SourceError(f"{path or 'a row'} cannot be read as a sound: {error}") from error
        found.append(head.frames / head.samplerate)
    return found


def undecoded(rows: Dataset, column: str) -> Dataset:
    """Sounds as the bytes of their files: they are decoded here."""
    from datasets import Audio

    if not isinstance(rows.features[column], Audio):
        raise SourceError(f"column '{column}' holds no sounds: a folder of sounds is read by `format: audiofolder`")
    return rows.cast_column(column, Audio(decode=False))


# ------------------------------------------------------------------ feature extractors


def settings(folder: Path) -> dict[str, Any]:
    """What the model's feature extractor is set to.

    Raises:
        SourceError: there is none, or it is of another kind.
    """
    return sound_settings(folder, KINDS)


@lru_cache(maxsize=4)
def _extractor(settings: str) -> Any:
    import transformers

    values = json.loads(settings)
    kind = getattr(transformers, values.pop("feature_extractor_type"))
    values.pop("processor_class", None)
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{PREPROCESSOR} is malformed: {error}") from error


def _extracted(values: Mapping[str, Any], waves: Sequence[NDArray[np.float32]], samples: int) -> Feed:
    """Inputs of the model: sounds cut or padded to so many samples."""
    import numpy as np

    if values["feature_extractor_type"] in SOUNDS:
        from compressor.tasks.inputs.audio import features_of

        how = of_audio(values, samples=samples)
        rows = [features_of(wave, how) for wave in waves]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    extractor = _extractor(json.dumps(values))
    if values["feature_extractor_type"] == PATCHES:
        cut = [wave[:samples] for wave in waves]
        found = extractor(cut, sampling_rate=extractor.sampling_rate, return_tensors="np")
        return {"input_values": np.ascontiguousarray(found["input_values"], dtype=np.float32)}
    found = extractor(
        [wave[:samples] for wave in waves],
        sampling_rate=extractor.sampling_rate,
        padding="max_length",
        max_length=_frames(values, samples),
        truncation=True,
        return_attention_mask=True,
        return_tensors="np",
    )
    dtypes = {"attention_mask": np.int64}
    return {name: np.ascontiguousarray(array, dtype=dtypes.get(name, np.float32)) for name, array in found.items()}


def _frames(values: Mapping[str, Any], samples: int) -> int:
    """Frames of 25 ms, one every 10 ms, in so many samples: whole stacks of them, at least one."""
    rate, stride = int(values["sampling_rate"]), int(values["stride"])
    frames = 1 + max(0, samples - round(FRAME * rate)) // round(0.01 * rate)
    return max(1, frames // stride) * stride
