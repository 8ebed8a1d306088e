"""What is measured: tasks with their splits, heads, losses and metrics."""

from moofusion.tasks.base import SPLITS, Measurement, Metric, Task
from moofusion.tasks.classification import ClassificationTask, TensorClassification
from moofusion.tasks.data import LabelledData, read_labelled
from moofusion.tasks.function import FunctionTask
from moofusion.tasks.image import ImageClassification
from moofusion.tasks.text import TextClassification

__all__ = [
    "SPLITS",
    "ClassificationTask",
    "FunctionTask",
    "ImageClassification",
    "LabelledData",
    "Measurement",
    "Metric",
    "Task",
    "TensorClassification",
    "TextClassification",
    "read_labelled",
]
