"""Drawing small pictures as somebody else's task: no labels, a loop of denoising steps in numpy, a score of all pictures together.

Measuring processes import this module too: torch is imported where it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from compressor.contracts import (
    Batch,
    Columns,
    Data,
    Evaluation,
    Feed,
    Graph,
    Measure,
    Model,
    Outputs,
    Port,
    Prediction,
    Task,
    Want,
    Workload,
)
from compressor.contracts.records import Scores
from compressor.errors import UnsupportedModel

DENOISER, COMPONENT = "denoiser", "unet"
SCHEDULER = "scheduler/scheduler_config.json"
DISTANCE = Measure("frechet-distance", better="lower", drop="percent")
BATCH = 4
SHADES = " .:-=+*#"


class LoadsPipelines:
    """The part of a task that reads a pipeline: the denoiser is what steps work on."""

    def load(self, source: Path, data: Data | None, *, seed: int) -> Model:
        """All components with weights, and the scheduler's files; nothing is drawn."""
        from compressor.model import Model

        return Model.read(source)


class ImageGeneration(LoadsPipelines, Task):
    """A picture from each seed. Its noise levels are the scheduler's, and go with every feed: a loop needs no file."""

    seed: str = "seed"
    picture: str = "picture"
    steps: int = Field(default=4, ge=1, description="Denoising steps of a picture where a workload does not say how many.")

    def gives_logits(self) -> bool:
        return False

    def measures(self) -> tuple[Measure, ...]:
        return (DISTANCE,)

    def columns(self) -> Columns:
        return Columns((self.picture,), kept=(self.seed,))

    # -------------------------------------------------------------- graphs

    def inputs(self, model: Model | Path) -> tuple[Port, ...]:
        return (Port("sample", "float32", ("batch", *_shape(model))), Port("kept", "float32", ("batch", len(_kept(model)))))

    def outputs(self) -> tuple[Port, ...]:
        return (Port("pictures", "float32", ("batch", "channels", "height", "width")),)

    def graphs(self, files: Model | Path) -> tuple[Graph, ...]:
        axes = ("batch", *_shape(files))
        inputs = (Port("sample", "float32", axes), Port("timestep", "int64", ("batch",)))
        return (Graph(DENOISER, COMPONENT, inputs=inputs, outputs=(Port("noise", "float32", axes),)),)

    def example(self, files: Path, graph: Graph, *, batch: int, length: int) -> Feed:
        shape = (batch, *_shape(files))
        return {"sample": np.sin(np.arange(np.prod(shape), dtype=np.float32)).reshape(shape), "timestep": np.arange(batch)}

    def answer(self, module: Any, graph: Graph, inputs: Mapping[str, Any]) -> Any:
        return module(inputs["sample"], inputs["timestep"]).sample

    def call(self, session: Any, feed: Feed, workload: Workload = Workload(), prepared: object = None) -> Feed:
        """DDIM without fresh noise (Song et al., arXiv:2010.02502): from a level to the next lower one, the last step to none."""
        sample, kept = feed["sample"], feed["kept"]
        count = workload.steps or self.steps
        levels = [*(np.linspace(kept.shape[1], 0, count, endpoint=False).round().astype(np.int64) - 1), None]
        for level, lower in pairwise(levels):
            given = {"sample": sample, "timestep": np.full(len(sample), level)}
            noise = session.run(given, graph=DENOISER)[0]["noise"]
            here, there = _share(kept, level), _share(kept, lower)
            clean = ((sample - np.sqrt(1 - here) * noise) / np.sqrt(here)).clip(-1, 1)
            sample = (np.sqrt(there) * clean + np.sqrt(1 - there) * noise).astype(np.float32)
        return {"pictures": sample}

    # -------------------------------------------------------------- rows

    def batches(self, rows: Any, files: Path, *, batch_size: int, shuffle_seed: int | None = None) -> list[Batch]:
        """Pictures with noise that the seed draws anew."""
        import torch

        draw = np.random.default_rng(shuffle_seed or 0)
        order = np.arange(len(rows)) if shuffle_seed is None else draw.permutation(len(rows))
        pictures, kept = _pictures(rows[self.picture]), _kept(files)
        noise = draw.standard_normal(pictures.shape, dtype=np.float32)
        level = draw.integers(0, len(kept), len(rows))
        share = kept[level].reshape(-1, 1, 1, 1)
        noisy = (np.sqrt(share) * pictures + np.sqrt(1 - share) * noise).astype(np.float32)
        made = {"noisy": noisy, "level": level, "noise": noise, "row": np.arange(len(rows))}
        groups = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
        return [{name: torch.from_numpy(array[group]) for name, array in made.items()} for group in groups]

    def repeats(self) -> bool:
        return False

    def forward(self, module: Any, batch: Batch, want: Want = Want()) -> Outputs:
        return Outputs(module(batch["noisy"], batch["level"]).sample)

    def loss(self, outputs: Outputs, batch: Batch) -> Any:
        return (outputs.main - batch["noise"]).square().mean()

    def feed(self, content: Any, files: Path) -> Feed:
        return self._feed([content], files)

    def feeds(self, rows: Any, files: Path, workload: Workload = Workload(), *, count: int | None = None) -> list[Feed]:
        seeds = np.resize(rows[self.seed], (count or 1, workload.batch))
        return [self._feed(each, files) for each in seeds]

    def scored_feeds(self, rows: Any, files: Path) -> tuple[list[Feed], range]:
        seeds = list(rows[self.seed])
        return [self._feed(seeds[at : at + BATCH], files) for at in range(0, len(seeds), BATCH)], range(len(seeds))

    def _feed(self, seeds: Any, files: Path) -> Feed:
        shape = _shape(files)
        noise = [np.random.default_rng(int(each)).standard_normal(shape, dtype=np.float32) for each in seeds]
        return {"sample": np.stack(noise), "kept": np.tile(_kept(files), (len(noise), 1))}

    # -------------------------------------------------------------- scores

    def truth(self, rows: Any) -> Feed:
        return {"pictures": _pictures(rows[self.picture])}

    def score(self, outputs: Feed, truth: Feed, *, split: str) -> Evaluation:
        """How far the pictures are, as a set, from those of the rows: no picture has a share in it."""
        value = frechet(outputs["pictures"], truth["pictures"])
        metric = DISTANCE.metric(value, len(outputs["pictures"]))
        return Evaluation(Scores(split=split, metric=metric.name, metrics=(metric,)), outputs, truth=truth)

    def tell(self, outputs: Feed, labels: Any) -> tuple[Prediction, ...]:
        """Each picture in letters."""
        shades = ((outputs["pictures"][:, 0].clip(-1, 1) + 1) / 2 * (len(SHADES) - 1)).round().astype(int)
        return tuple(Prediction("\n".join("".join(SHADES[each] for each in line) for line in picture)) for picture in shades)

    # -------------------------------------------------------------- a tiny model

    def tiny(self, folder: Path) -> Mapping[str, Any]:
        """A pipeline of two components as diffusers writes it, and rows of slopes from dark to light."""
        write_pipeline(folder / "pretrained")
        slope = np.linspace(-1, 1, 8)
        tilts = np.random.default_rng(0).uniform(0.2, 1, 40)
        rows = [{"seed": seed, "picture": (tilt * np.tile(slope, (8, 1))).tolist()} for seed, tilt in enumerate(tilts)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return {"files": str(folder / "rows.jsonl"), "split": {"validation": 8, "test": 12}, "calibration": 4}


def frechet(ours: Any, theirs: Any) -> float:
    """Distance of two normal distributions (Frechet 1957) that have the mean and covariance of coarse pictures: `[n, C, H, W]`."""
    (mean, covariance), (other, others) = _statistics(ours), _statistics(theirs)
    roots = np.sqrt(np.linalg.eigvals(covariance @ others).real.clip(0)).sum()
    return float(((mean - other) ** 2).sum() + np.trace(covariance) + np.trace(others) - 2 * roots)


def _statistics(pictures: Any) -> tuple[Any, Any]:
    n, _, height, width = pictures.shape
    coarse = pictures.astype(np.float64).mean(1).reshape(n, 2, height // 2, 2, width // 2).mean((2, 4)).reshape(n, 4)
    return coarse.mean(0), np.cov(coarse, rowvar=False)


def write_pipeline(folder: Path) -> None:
    """A denoiser, an autoencoder that nothing here calls, and a scheduler of 20 levels; always the same ones."""
    import diffusers
    import torch

    levels = {"block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 4}
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = diffusers.UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **levels, **kinds)
    kinds = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    vae = diffusers.AutoencoderKL(in_channels=1, out_channels=1, latent_channels=1, sample_size=16, **levels, **kinds)
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=20, beta_end=0.4)

    class Latent(diffusers.DiffusionPipeline):
        def __init__(self, unet: Any, vae: Any, scheduler: Any) -> None:
            super().__init__()
            self.register_modules(unet=unet, vae=vae, scheduler=scheduler)

    Latent(unet, vae, scheduler).save_pretrained(folder)


def _shape(files: Model | Path) -> tuple[int, int, int]:
    """Channels, height and width, of a model or of what lies in its folder."""
    if isinstance(files, Path):
        config = json.loads((files / COMPONENT / "config.json").read_text(encoding="utf-8"))
    else:
        config = files.component(COMPONENT).module.config
    return config["in_channels"], config["sample_size"], config["sample_size"]


def _kept(files: Model | Path) -> Any:
    """The share of a picture that is left at each level of noise, by the scheduler's file."""
    text = (files / SCHEDULER).read_bytes() if isinstance(files, Path) else files.files[SCHEDULER]
    settings = json.loads(text)
    if settings["beta_schedule"] != "linear":
        raise UnsupportedModel(f"noise by a schedule that is {settings['beta_schedule']}, expected linear")
    betas = np.linspace(settings["beta_start"], settings["beta_end"], settings["num_train_timesteps"])
    return (1 - betas).cumprod().astype(np.float32)


def _share(kept: Any, level: Any) -> Any:
    return np.float32(1) if level is None else kept[:, level].reshape(-1, 1, 1, 1)


def _pictures(column: Any) -> Any:
    return np.asarray(list(column), dtype=np.float32)[:, None]
