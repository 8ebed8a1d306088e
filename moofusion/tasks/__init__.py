"""What is measured: tasks with their splits, heads, losses and metrics."""

from moofusion.tasks.base import SPLITS, Measurement, Metric, Task
from moofusion.tasks.classification import ClassificationTask, TensorClassification
from moofusion.tasks.data import LabelledData, read_labelled
from moofusion.tasks.function import FunctionTask
from moofusion.tasks.image import ImageClassification
from moofusion.tasks.text import TextClassification
from moofusion.tasks.zero_shot import Prompts, ZeroShotClassification

__all__ = [
    "SPLITS",
    "ClassificationTask",
    "FunctionTask",
    "ImageClassification",
    "LabelledData",
    "Measurement",
    "Metric",
    "Prompts",
    "Task",
    "TensorClassification",
    "TextClassification",
    "ZeroShotClassification",
    "read_labelled",
]
