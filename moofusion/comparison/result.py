"""What a search found: the front, the references, and an ordinary checkpoint of any point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moofusion.algorithms.preferences import parse_preference
from moofusion.baselines.checkpoint import copy_checkpoint
from moofusion.comparison.front import Front, PointSet
from moofusion.comparison.quality import REFERENCE, hypervolume
from moofusion.comparison.run_folder import (
    check_results,
    read_evaluated,
    read_references,
    read_settings,
    write_references,
)
from moofusion.errors import ConfigurationError, RunError
from moofusion.problems import MergeProblem, ProblemSpec
from moofusion.problems.export import export_merge

if TYPE_CHECKING:
    from moofusion.weights.export import Exported

__all__ = ["SearchResult"]

Array = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class SearchResult:
    """What a search found.

    Attributes:
        front: All non-dominated models, on the search split and re-measured on test.
        references: Base, experts and controls, measured alike.
        evaluated: Metric values of every evaluation on the search split, shape ``(N, M)``.
        settings: What was run: problem, algorithm, seed, budget, fingerprint, versions.
        seconds: Wall-clock seconds of the search itself.
        problem: The problem, if it is in memory.
        folder: Where it is stored, if it is.

    Example:
        >>> import moofusion
        >>> problem = moofusion.get_problem("vision4", tasks=["animals", "objects"])
        >>> result = moofusion.search(problem, "random:batch_size=3", evaluations=3, seed=1)
        >>> len(result.evaluated)
        3
    """

    front: Front
    references: PointSet
    evaluated: Array
    settings: Mapping[str, Any]
    seconds: float
    problem: MergeProblem | None = field(default=None, repr=False)
    folder: Path | None = None

    def hypervolume(self, split: str = "search") -> float:
        """Normalized hypervolume of the front, reference point 1.1 in every objective.

        A model that failed on this split (a NaN or infinite metric) adds nothing.
        """
        F = self.front.normalized(split)
        return hypervolume(F[np.isfinite(F).all(axis=1)], reference=REFERENCE)

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that were measured."""
        return self.front.splits

    def summary(self) -> str:
        """Markdown report."""
        from moofusion.comparison.summary import summary

        return summary(self)

    def plot(self, *, split: str | None = None) -> Any:
        """Matplotlib figure of all pairs of objectives (default: test where there is one)."""
        from moofusion.comparison.plots import plot_front

        return plot_front(self, split=split)

    def __repr__(self) -> str:
        volumes = ", ".join(f"{split} {self.hypervolume(split):.4f}" for split in self.splits)
        return (
            f"SearchResult({self.settings['problem']}, {self.settings['algorithm']}, "
            f"{len(self.evaluated)} evaluations, {len(self.front)} models on the front, "
            f"hypervolume {volumes})"
        )

    def _repr_html_(self) -> str:
        from moofusion.comparison.summary import summary_html

        return summary_html(self)

    def export(
        self,
        to: str | Path,
        preference: str | Mapping[str, float] | Sequence[float] | None = None,
        *,
        by: str = "weighted",
        subject_to: str | None = None,
        point: int | None = None,
        head: str | None = None,
        dtype: str = "float32",
        adapter: str | None = None,
        rank: int | None = None,
        force: bool = False,
    ) -> Exported:
        """Write one model of the front as an ordinary checkpoint.

        Args:
            to: Folder to write; it must not exist, unless `force`.
            preference: Which model: importance of the objectives.
            by: How the preference is used (see :func:`moofusion.comparison.choose`).
            subject_to: Conditions on the measured metrics, ``"mnist>=0.95,animals>=0.4"``.
            point: Which model: its number in the front, instead of a preference.
            head: Task whose head goes into the checkpoint; by default the one that matters most.
            dtype: Precision of the weights.
            adapter: Where all experts are LoRA adapters, write one instead of the whole model:
                ``"svd"``, ``"cat"`` or ``"linear"``, as
                :func:`moofusion.problems.export.export_adapter` has them.
            rank: Its rank, for ``"svd"``.
            force: Replace an existing folder.

        A front that holds fine-tuned checkpoints may choose one: it is copied as it is.

        Returns:
            Where it was written and what was recorded of it.
        """
        index, how = self.pick(preference, by, subject_to, point)
        if self.front.folder(index):
            if adapter is not None:
                raise ConfigurationError(
                    f"point {index + 1} is a fine-tuned checkpoint, which is no adapter; export it "
                    "as a model"
                )
            return copy_checkpoint(
                Path(self.front.folder(index)), Path(to), head=head, dtype=dtype, force=force
            )
        problem = self.problem or self._reopen()
        head = head or self._most_wanted(index, preference)
        metrics = {
            split: dict(
                zip(self.front.tasks, self.front.values(split)[index].tolist(), strict=True)
            )
            for split in self.splits
        }
        x = self.front.X[index]
        return export_merge(
            problem,
            problem.space.coefficients(x[None])[0],
            x=x,
            task=head,
            metrics=metrics,
            chosen=f"{how} (point {index + 1} of {len(self.front)})",
            settings=self.settings,
            to=Path(to),
            dtype=dtype,
            adapter=adapter,
            rank=rank,
            force=force,
        )

    def pick(
        self,
        preference: str | Mapping[str, float] | Sequence[float] | None = None,
        by: str = "weighted",
        subject_to: str | None = None,
        point: int | None = None,
    ) -> tuple[int, str]:
        """Index of the model that :meth:`export` writes, and in words how it was chosen."""
        if point is None:
            wish = "equal preferences"
            if preference is not None:
                weights = parse_preference(preference, self.front.tasks)
                given = [
                    f"{task}={weight:.6g}"
                    for task, weight in zip(self.front.tasks, weights, strict=True)
                    if weight > 0
                ]
                wish = f"preference {', '.join(given)}"
            how = f"chosen by '{by}'" + ("" if by == "knee" else f" with {wish}")
            how += "" if subject_to is None else f" subject to {subject_to}"
            return self.front.choose(preference, by=by, subject_to=subject_to), how
        if preference is not None or subject_to is not None:
            raise ConfigurationError("give a point, or a preference and conditions, not both")
        if not 1 <= point <= len(self.front):
            raise ConfigurationError(
                f"point {point} is not in the front; its points are 1 to {len(self.front)}"
            )
        return point - 1, "chosen by its number"

    def _most_wanted(
        self, index: int, preference: str | Mapping[str, float] | Sequence[float] | None
    ) -> str:
        """Task that matters most: by preference, else the one this model is best at."""
        if preference is not None:
            return self.front.tasks[int(parse_preference(preference, self.front.tasks).argmax())]
        return self.front.tasks[int(self.front.normalized("search")[index].argmin())]

    def _reopen(self) -> MergeProblem:
        spec = self.settings.get("spec")
        if not spec:
            raise ConfigurationError(
                "this run was made from a problem in memory, so its models cannot be opened "
                "again; export from the Python session that ran it"
            )
        problem = ProblemSpec.model_validate(spec).build()
        if problem.fingerprint() != self.settings["fingerprint"]:
            raise RunError(
                f"the models or data of {self.settings['problem']!r} have changed since this run "
                "was made (their fingerprint differs); its recorded metrics no longer hold"
            )
        return problem

    def save(self, folder: Path) -> None:
        """Write front, references, plots and summary to a run folder."""
        self.front.to_csv(folder / "front.csv")
        write_references(folder / "references.csv", self.references)
        for split in self.splits:
            figure = self.plot(split=split)
            last = split == self.splits[-1]
            figure.savefig(folder / ("front.png" if last else "front_search.png"), dpi=150)
        (folder / "summary.md").write_text(self.summary(), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> SearchResult:
        """Read a finished run back.

        Raises:
            RunError: The folder holds no run, one that is not finished, a damaged one, or one
                whose tables were edited.
        """
        folder = Path(folder)
        settings = read_settings(folder)
        try:
            check_results(folder, settings)
            seconds = float(settings["result"]["seconds"])
            references = read_references(folder / "references.csv", settings)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{folder}: run.json and references.csv are damaged or not of one run "
                f"({type(error).__name__}: {error}); run the search again"
            ) from error
        front = Front.from_csv(folder / "front.csv", references)
        evaluated = read_evaluated(folder / "evaluations.csv", references)
        return cls(front, references, evaluated, settings, seconds, None, folder)
