"""The pictures of the gallery, from real runs on two tasks of vision4: python docs/gallery/make.py.

It takes five minutes on one thread.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path

from PIL import Image
from pymoo.optimize import minimize

import moofusion
from moofusion import MAP, Study
from moofusion.comparison import plot_calibration, plot_contours, plot_predicted
from moofusion.comparison.report import write_report

FOLDER = Path(__file__).parent
TASKS = ["animals", "objects"]
#: Figures of the report, and their names here.
FIGURES = {
    "front-test": "fronts",
    "anytime": "anytime",
    "attainment": "attainment",
    "coefficients": "coefficients",
}


def main() -> None:
    """Run, draw, write small PNG files beside this script."""
    warnings.simplefilter("ignore")
    problem = moofusion.get_problem("vision4", tasks=TASKS)
    save(moofusion.search(problem, "nsga2", evaluations=100, seed=1).plot(), "front")

    algorithm = minimize(problem, MAP(n_samples=20), ("n_eval", 40), seed=1).algorithm
    save(plot_contours(algorithm, *TASKS), "contours")
    save(plot_predicted(algorithm), "predicted")
    save(plot_calibration(algorithm.surrogate), "calibration")

    with tempfile.TemporaryDirectory() as folder:
        store, out = Path(folder) / "pair.db", Path(folder) / "report"
        Study(problem, ["nsga2", "map"], seeds=3, evaluations=40, store=store).run(threads=1)
        write_report(store, out)
        for end, name in FIGURES.items():
            (found,) = (out / "figures").glob(f"*objects-{end}.png")
            shutil.copy(found, FOLDER / f"{name}.png")
            shrink(FOLDER / f"{name}.png")


def save(figure: object, name: str) -> None:
    """Write a matplotlib figure as a small PNG file."""
    path = FOLDER / f"{name}.png"
    figure.savefig(path, dpi=110, bbox_inches="tight")  # type: ignore[attr-defined]
    shrink(path)


def shrink(path: Path) -> None:
    """At most 1200 pixels wide, with a palette: a tenth of the bytes, no visible difference."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((1200, 1200))
    small.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
