"""What a notebook shows of a study: the table, and one picture for each problem."""

from __future__ import annotations

from moofusion.comparison.figure import figure_html
from moofusion.comparison.quality import REFERENCE
from moofusion.comparison.report.fronts import plot_fronts
from moofusion.comparison.report.progress import plot_progress
from moofusion.comparison.report.scores import sections
from moofusion.comparison.report.style import styled
from moofusion.comparison.study_data import StudyData

__all__ = ["study_html"]

# More pictures than this would bury the table.
_MOST = 6


def study_html(data: StudyData) -> str:
    """The table of all runs, and of the first problems the fronts or the hypervolume over time.

    Args:
        data: The study; runs that are not finished are left out and counted.
    """
    waiting = sum(run.cell.status != "done" for run in data.runs)
    parts = [
        f"<p>normalized hypervolume, mean and standard deviation over seeds, reference point "
        f"{REFERENCE}{f'; {waiting} of {len(data.runs)} runs are not finished' * bool(waiting)}"
        f"</p>{data.table().to_html(index=False, float_format='{:.4f}'.format)}"
    ]
    with styled():
        for section in sections(data)[:_MOST]:
            if len(section.problem.tasks) == 2:
                figure = plot_fronts(section, section.split)
            else:
                figure = plot_progress(section)
            parts.append(figure_html(figure, section.title))
    return "".join(parts)
