"""The one training loop, its checkpoints, and the processes that share it."""

from compressor.training.course import TrainingLog
from compressor.training.learners import Learner
from compressor.training.loop import Moment, Training, train
from compressor.training.settings import TokenSettings, TrainingSettings, resolved_precision

__all__ = ["Learner", "Moment", "TokenSettings", "Training", "TrainingLog", "TrainingSettings", "resolved_precision", "train"]
