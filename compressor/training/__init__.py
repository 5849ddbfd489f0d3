"""The one training loop, its checkpoints, and the processes that share it."""

from compressor.training.loop import OwnRate, TrainingLog, TrainingSettings, resolved_precision, train

__all__ = ["OwnRate", "TrainingLog", "TrainingSettings", "resolved_precision", "train"]
