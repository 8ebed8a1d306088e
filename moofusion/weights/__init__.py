"""Where weights come from and go to: model pool, flat layout, task vectors."""

from moofusion.weights.flat import FlatModel
from moofusion.weights.layout import Entry, ParameterLayout, Partition
from moofusion.weights.pool import LoadedPool, ModelPool
from moofusion.weights.vectors import TaskVectors

__all__ = [
    "Entry",
    "FlatModel",
    "LoadedPool",
    "ModelPool",
    "ParameterLayout",
    "Partition",
    "TaskVectors",
]
