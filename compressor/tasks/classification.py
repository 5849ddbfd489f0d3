"""What text and image classification share: capture of inner features, the loss, and scores with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import model_validator

from compressor.contracts import Batch, Evaluation, Feed, Outputs, Port, Task, Want
from compressor.contracts.records import ClassScore, Interval, Metric, Scores
from compressor.model.capture import captured
from compressor.tasks.metrics import by_class, wilson

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from numpy.typing import NDArray

NOT_INPUTS = ("labels", "row")
SCORED_BATCH = 8
RESAMPLES = 1000


class Classification(Task):
    """One label for each row."""

    metric: ClassVar[str] = "accuracy"

    @model_validator(mode="after")
    def _reads_two_columns(self) -> Self:
        content, label = self.columns()
        if content == label:
            raise ValueError(f"content and label are both column '{label}'")
        return self

    def outputs(self) -> tuple[Port, ...]:
        """Logits `[batch, classes]`."""
        return (Port("logits", "float32", ("batch", "classes")),)

    def forward(self, module: torch.nn.Module, batch: Batch, want: Want = Want()) -> Outputs:
        """Run the model; hidden states are the outputs of blocks, attention maps those of its attention modules."""
        inputs: dict[str, Any] = {name: tensor for name, tensor in batch.items() if name not in NOT_INPUTS}
        with captured(module, want) as (hidden_states, attention_maps):
            logits = module(**inputs).logits
        return Outputs(logits, dict(hidden_states), dict(attention_maps), batch.get("attention_mask"))

    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Cross-entropy, a mean over the batch."""
        import torch

        return torch.nn.functional.cross_entropy(outputs.logits.float(), batch["labels"])

    def score(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path, *, split: str) -> Evaluation:
        """Accuracy with Wilson's interval, macro-F1 with a bootstrap interval, and precision, recall, F1 by class."""
        import numpy as np

        outputs = self.predicted(predict, rows, files)
        labels = np.asarray(rows[self.columns()[-1]])
        return Evaluation(
            scores=scores(outputs, labels, _class_names(rows, self.columns()[-1]) or self.names(files), split),
            outputs=outputs,
            correct=(outputs.argmax(-1) == labels) * 1.0,
        )

    def names(self, files: Path) -> tuple[str, ...]:
        """Names of the classes, in order, as the model's configuration has them."""
        import json

        config = json.loads((files / "config.json").read_text(encoding="utf-8")) if (files / "config.json").is_file() else {}
        names = config.get("id2label", {})
        return tuple(names[key] for key in sorted(names, key=int))


def _class_names(rows: Dataset, label: str) -> tuple[str, ...]:
    return tuple(getattr(rows.features[label], "names", ()))


def scores(outputs: NDArray[np.float32], labels: NDArray[np.int64], names: Sequence[str], split: str) -> Scores:
    """Metrics of logits `[n, classes]` against labels `[n]`."""
    import numpy as np

    predicted, n, classes = outputs.argmax(-1), len(labels), list(range(outputs.shape[-1]))
    right = int((predicted == labels).sum())
    figures = by_class(predicted, labels, len(classes))
    low, high = _macro_f1_interval(predicted, labels, len(classes))
    return Scores(
        split=split,
        metric="accuracy",
        metrics=(
            Metric(name="accuracy", value=right / n, n=n, interval=wilson(right, n)),
            Metric(
                name="macro-F1",
                value=float(np.mean(figures.f1)),
                n=n,
                interval=Interval(low=low, high=high, method="bootstrap over rows"),
            ),
        ),
        per_class=tuple(
            ClassScore(
                label=names[number] if number < len(names) else str(number),
                n=int(figures.n[number]),
                precision=float(figures.precision[number]),
                recall=float(figures.recall[number]),
                f1=float(figures.f1[number]),
            )
            for number in classes
        ),
    )


def _macro_f1_interval(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> tuple[float, float]:
    """Percentile bootstrap: drawing rows anew is drawing the counts of the confusion matrix's cells from a multinomial."""
    import numpy as np

    cells, counts = np.unique(labels * classes + predicted, return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(labels), counts / len(labels), size=RESAMPLES)
    true, found = np.divmod(cells, classes)
    every = np.arange(classes)
    of_class, as_class = (true[:, None] == every) * 1.0, (found[:, None] == every) * 1.0
    f1 = 2 * (draws @ (of_class * as_class)) / np.maximum(draws @ (of_class + as_class), 1)
    low, high = np.quantile(f1.mean(-1), (0.025, 0.975))
    return float(low), float(high)
