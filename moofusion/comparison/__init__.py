"""How searches are run, measured and judged."""

from moofusion.comparison.adherence import Adherence, adherence, measure_adherence
from moofusion.comparison.checkpoints import checkpoint_points
from moofusion.comparison.decision import choose, meeting
from moofusion.comparison.front import Front, PointSet
from moofusion.comparison.log import EvaluationLog
from moofusion.comparison.plots import plot_front
from moofusion.comparison.pooled import pooled_result
from moofusion.comparison.quality import REFERENCE, hypervolume, nondominated
from moofusion.comparison.result import SearchResult
from moofusion.comparison.search import search
from moofusion.comparison.store import Store
from moofusion.comparison.study import Study
from moofusion.comparison.study_data import StudyData
from moofusion.comparison.study_spec import read_study
from moofusion.comparison.surrogate_plots import plot_calibration, plot_contours, plot_predicted
from moofusion.comparison.thinning import thin

__all__ = [
    "REFERENCE",
    "Adherence",
    "EvaluationLog",
    "Front",
    "PointSet",
    "SearchResult",
    "Store",
    "Study",
    "StudyData",
    "adherence",
    "checkpoint_points",
    "choose",
    "hypervolume",
    "measure_adherence",
    "meeting",
    "nondominated",
    "plot_calibration",
    "plot_contours",
    "plot_front",
    "plot_predicted",
    "pooled_result",
    "read_study",
    "search",
    "thin",
]
