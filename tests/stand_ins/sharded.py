"""One of two processes whose models are spread over both: `sharded.py FOLDER` writes what it found into FOLDER/RANK.json."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from compressor.contracts import Message
from compressor.errors import TrainingDiverged, UnsupportedModel
from compressor.model.model import Model
from compressor.model.sharding import gathered, held_bytes
from compressor.model.token_losses import mean_cross_entropy, token_logits
from compressor.tasks.language.likelihood import ahead, counted
from compressor.training.loop import Training, train
from compressor.training.settings import TrainingSettings

WORDS, STEPS, STOPPED = 101, 8, 5
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
LARGE = {"hidden_size": 512, "num_hidden_layers": 6, "intermediate_size": 2048, "num_attention_heads": 8}


def write(folder: Path) -> None:
    """A small model of an odd number of words, which two processes cannot share evenly, one whose bytes can be seen in memory, and one of two
    components."""
    for name, sizes in (("small", SMALL), ("large", LARGE)):
        torch.manual_seed(0)
        config = LlamaConfig(**sizes, vocab_size=WORDS, max_position_embeddings=64, tie_word_embeddings=True)
        Model.wrap(LlamaForCausalLM(config)).save(folder / name)
    config = LlamaConfig(**SMALL, vocab_size=WORDS)
    Model.wrap({"net": LlamaForCausalLM(config), "encoder": LlamaForCausalLM(config)}, main="net").save(folder / "pair")


def batches(epoch: int) -> list[dict[str, torch.Tensor]]:
    """Three rows each: two processes of two parts have nothing to do for one of them."""
    draw = torch.Generator().manual_seed(epoch)
    ids = torch.randint(0, WORDS, (STEPS // 2, 3, 12), generator=draw)
    return [{"input_ids": each, "labels": each} for each in ids]


def loss(model: Model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return mean_cross_entropy(token_logits(model.module, {"input_ids": batch["input_ids"]}, ahead(batch["labels"])))


def trained(model: Model, folder: Path, *, at: int = -1, raises: bool = False, told: list | None = None):
    """Train for two epochs, the better one kept; at a step an error is raised, or the loss is infinite."""

    def step(batch, moment):
        if moment.step == at and raises:
            raise RuntimeError("stopped")
        found = loss(model, batch)
        return {"task": found + float("inf") if moment.step == at else found}

    @torch.no_grad()
    def evaluate() -> float:
        model.module.to("cpu")
        return -gathered([model.module], lambda: loss(model, batches(7)[0])).item()

    given = {"epochs": 2, "accumulate": 2, "learning_rate": 0.01, "precision": "fp32"}
    training = Training(model.module, batches, step, TrainingSettings.model_validate(given), evaluate=evaluate)
    for _ in range(5):  # passes that are not learned from, on the device that it is on already
        evaluate()
        model.module.to("cpu")
    heard = told if told is not None else []
    ctx = SimpleNamespace(
        task=SimpleNamespace(weight=lambda batch: counted(batch["labels"])),
        seed=0,
        device="cpu",
        folder=folder,
        tell=heard.append,
    )
    return train(training, ctx, work="finetune")


def main(folder: Path) -> None:
    from accelerate import PartialState

    from compressor.training.meeting import meet, scratch_file

    meet(scratch_file(folder), wait_seconds=60)
    rank = PartialState(cpu=True).process_index

    def load(name: str) -> Model:
        return Model.load(folder / name, sharded=True)

    def save(model: Model, name: str) -> None:
        model.save(folder / (name if rank == 0 else f"{name}-beside"))

    model = load("small")
    save(model, "unchanged")
    whole = held_bytes(model.module)
    log = trained(model, folder / "through")
    after = held_bytes(model.module)
    save(model, "through-model")
    told: list = []
    try:
        trained(load("small"), folder / "stopped", at=STOPPED, raises=True)
    except RuntimeError:
        shares = sorted(path.name for path in (folder / "stopped" / "training-finetune").iterdir())
        model = load("small")
        trained(model, folder / "stopped", told=told)
        save(model, "stopped-model")
    try:
        trained(load("small"), folder / "diverged", at=3)
    except TrainingDiverged as error:
        fault = str(error)
    try:
        model.module.bfloat16()
    except UnsupportedModel as error:
        moved = str(error)
    pair = load("pair")
    pair.save_beside(folder / f"beside-{rank}")
    save(pair, "unchanged-pair")
    found = {
        "pair": {name: held_bytes(each.module) for name, each in pair.components.items()},
        "moved": moved if model.module.to("cpu") is model.module else "",
        "losses": [value for _, value in log.losses["task"]],
        "validation": log.validation,
        "kept_epoch": log.kept_epoch,
        "held": {"loaded": whole, "trained": after},
        "loading": anonymous_while(lambda: load("large")),
        "checkpoint": shares,
        "told": [each.text for each in told if isinstance(each, Message)],
        "fault": fault,
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def anonymous_while(make) -> tuple[int, int]:
    """By how many bytes the memory of this process that is no file grew at most while a model was made, and the bytes of all its parameters."""
    before, seen, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    model = make()
    done.set()
    watching.join()
    return max(*seen, anonymous()) - before, held_bytes(model.module)[1]


def anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
