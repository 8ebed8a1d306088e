"""Fine-tuned checkpoints as a row of a study, beside algorithms that search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pymoo.core.algorithm import Algorithm

from moofusion.errors import ConfigurationError

__all__ = ["TrainedCheckpoints"]


class TrainedCheckpoints(Algorithm):
    """What ``moofusion baselines train`` left in a folder: no search, models that are there.

    They are no merges and have no decision vector, so pymoo cannot evaluate them: a
    :class:`moofusion.comparison.Study` enters them with the metrics and the cost that the training
    recorded.

    Args:
        folder: Where ``baselines.json`` is. ``{seed}`` in it stands for the seed of the run, for
            trainings of several seeds; without it every seed shows the same models.
        **kwargs: Passed to :class:`pymoo.core.algorithm.Algorithm`.

    Raises:
        ConfigurationError: No folder.

    Example:
        >>> TrainedCheckpoints("runs/ls-{seed}").folder_of(3).name
        'ls-3'
    """

    def __init__(self, folder: str | Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not str(folder):
            raise ConfigurationError(
                "checkpoints: say where `moofusion baselines train` left them, such as "
                "checkpoints:folder=runs/finetuned, or runs/finetuned-{seed} for one of each seed"
            )
        self.folder = str(folder)

    def folder_of(self, seed: int) -> Path:
        """Folder for one seed of a study."""
        return Path(self.folder.replace("{seed}", str(seed)))

    def _setup(self, problem: Any, **kwargs: Any) -> None:
        raise ConfigurationError(
            "checkpoints are trained already and cannot be searched for; enter them in a study: "
            f"moofusion compare PROBLEM --algorithms checkpoints:folder={self.folder}"
        )
