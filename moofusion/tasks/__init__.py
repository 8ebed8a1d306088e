"""What is measured: tasks with their splits, heads, losses and metrics."""

from moofusion.tasks.base import SPLITS, Measurement, Metric, Task
from moofusion.tasks.classification import ClassificationTask, TensorClassification
from moofusion.tasks.corruptions import CORRUPTIONS, corrupt, corrupted
from moofusion.tasks.data import LabelledData, read_columns, read_labelled
from moofusion.tasks.function import FunctionTask
from moofusion.tasks.generation import Generation
from moofusion.tasks.harness import HarnessTask
from moofusion.tasks.image import ImageClassification
from moofusion.tasks.language import LanguageModeling, LanguageTask
from moofusion.tasks.multiple_choice import MultipleChoice, Question
from moofusion.tasks.objectives import BaseDistance, Forgetting, Sparsity
from moofusion.tasks.text import TextClassification
from moofusion.tasks.zero_shot import Prompts, ZeroShotClassification

__all__ = [
    "CORRUPTIONS",
    "SPLITS",
    "BaseDistance",
    "ClassificationTask",
    "Forgetting",
    "FunctionTask",
    "Generation",
    "HarnessTask",
    "ImageClassification",
    "LabelledData",
    "LanguageModeling",
    "LanguageTask",
    "Measurement",
    "Metric",
    "MultipleChoice",
    "Prompts",
    "Question",
    "Sparsity",
    "Task",
    "TensorClassification",
    "TextClassification",
    "ZeroShotClassification",
    "corrupt",
    "corrupted",
    "read_columns",
    "read_labelled",
]
