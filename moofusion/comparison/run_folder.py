"""Run folders: what a search leaves on disk, checked before anything is written over."""

from __future__ import annotations

import json
import math
import platform
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from moofusion.comparison.front import PointSet, read_rows
from moofusion.errors import RunError
from moofusion.problems import MergeProblem
from moofusion.tasks import Metric

if TYPE_CHECKING:
    from moofusion.comparison.result import SearchResult

__all__ = [
    "ROUTER",
    "TESTED",
    "TRAINING",
    "check_results",
    "machine",
    "mark_finished",
    "prepare_folder",
    "read_evaluated",
    "read_references",
    "read_settings",
    "run_settings",
    "write_references",
]

Array = NDArray[np.float64]

#: The trained router of a run of PWEMoE, and a training that an interrupted run goes on with.
ROUTER = "router.safetensors"
TRAINING = "training.safetensors"
#: The front on the test split, by evaluation as the evaluation log.
TESTED = "test.csv"

_FILES = (
    "run.json",
    "evaluations.csv",
    TESTED,
    "front.csv",
    "references.csv",
    "front.png",
    "front_search.png",
    "summary.md",
    ROUTER,
    TRAINING,
)
_TEMPORARY = "run.json.tmp"
# Results that a run is read back from; run.json knows what was written into them.
_RESULTS = ("front.csv", "references.csv")
_PACKAGES = ("moofusion", "pymoo", "moocore", "torch", "transformers", "numpy")


def run_settings(
    problem: MergeProblem, algorithm: str, evaluations: int, seed: int, command: str | None
) -> dict[str, Any]:
    """Everything that decides a run, and the machine and versions it ran on."""
    return {
        "problem": problem.title,
        "tasks": list(problem.task_names),
        "algorithm": algorithm,
        "evaluations": evaluations,
        "seed": seed,
        "fingerprint": problem.fingerprint(),
        "fingerprint_test": problem.fingerprint("test") if problem.has_test_split else None,
        "held_out_test": problem.has_test_split,
        "spec": problem.spec.model_dump() if problem.spec else None,
        **machine(problem),
        "command": command,
    }


def machine(problem: MergeProblem) -> dict[str, Any]:
    """What the digits of a run depend on beside its settings: device, threads, versions."""
    import torch

    device = problem.evaluator.pool.model.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in _PACKAGES},
    }


def prepare_folder(
    folder: Path, settings: dict[str, Any], *, resume: bool, force: bool
) -> dict[str, Any]:
    """Make or check the run folder; nothing of a user's is ever overwritten unasked.

    Returns:
        The settings of the run: those given, or on resume those it was begun with, with the
        larger budget where more evaluations are asked for.
    """
    if resume:
        stored = read_settings(folder)
        _check_same_run(folder, stored, settings)
        larger = {key: settings[key] for key in ("evaluations", "command")}
        stored |= larger if settings["evaluations"] != stored["evaluations"] else {}
        return {key: value for key, value in stored.items() if key != "result"}
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; a run needs a folder, choose another one")
    if _holds_something(folder):
        if not force:
            hint = "--resume continues it, " if (folder / "run.json").exists() else ""
            raise RunError(
                f"{folder} exists already; {hint}--force replaces it, or choose another folder"
            )
        if not (folder / "run.json").exists():
            raise RunError(f"{folder} holds other files than a run; choose another folder")
        for file in _FILES:
            (folder / file).unlink(missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "run.json", settings)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error}") from error
    return settings


def _check_same_run(folder: Path, stored: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise where a resumed run would become another one, warn where digits could differ."""
    for key in ("problem", "tasks", "algorithm", "evaluations", "seed"):
        more = key == "evaluations" and settings[key] > stored.get(key, math.inf)
        if stored.get(key) != settings[key] and not more:
            raise RunError(
                f"cannot resume {folder}: its {key} is {stored.get(key)!r}, this command "
                f"has {settings[key]!r}; repeat the original command with --resume"
            )
    if stored.get("fingerprint") != settings["fingerprint"]:
        raise RunError(
            f"cannot resume {folder}: its fingerprint is {stored.get('fingerprint')!r}, this "
            f"command has {settings['fingerprint']!r}, so models, data, metrics or search space "
            "are other ones; repeat the original command with --resume"
        )
    tested = (folder / TESTED).exists()
    if tested and stored.get("fingerprint_test") != settings["fingerprint_test"]:
        raise RunError(
            f"cannot resume {folder}: models of its front are measured on other test data "
            f"already; repeat the original command with --resume, or remove {folder / TESTED}"
        )
    here = {"device": settings["device"], "threads": settings["threads"], **settings["versions"]}
    begun = {**stored, **stored.get("versions", {})}
    for key, now in here.items():
        if begun.get(key) != now:
            warnings.warn(
                f"{folder} was begun with {key} = {begun.get(key)!r}, now {now!r}; "
                "the last digits may differ from an uninterrupted run",
                UserWarning,
                stacklevel=4,
            )


def _holds_something(folder: Path) -> bool:
    """Whether `folder` has files beside what a kill at the first moment left."""
    return folder.exists() and any(file.name != _TEMPORARY for file in folder.iterdir())


def mark_finished(folder: Path, found: SearchResult) -> None:
    """Mark the run as finished, with what is needed to read it back."""
    metrics = [asdict(metric) for metric in found.front.metrics]
    scale = found.front.scale_test
    result = {
        "seconds": found.seconds,
        "metrics": metrics,
        "scale_search": found.front.scale_search.tolist(),
        "scale_test": None if scale is None else scale.tolist(),
        "hypervolume": {split: found.hypervolume(split) for split in found.splits},
        "digests": {name: _digest(folder / name) for name in _RESULTS},
    }
    _write_json(folder / "run.json", {**found.settings, "result": result})


def check_results(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise where a run is not finished, or its results are not those that it wrote."""
    if "result" not in settings:
        raise RunError(
            f"the run in {folder} is not finished; unless it still runs, go on with: "
            f"{_resuming(settings)}"
        )
    digests = settings["result"].get("digests", {})
    for name in _RESULTS:
        path = folder / name
        if name in digests and path.exists() and _digest(path) != digests[name]:
            raise RunError(
                f"{path} was changed after the run had written it, so its numbers may not be those "
                f"that were measured; to write it again: {_resuming(settings)}"
            )


def _digest(path: Path) -> str:
    return xxhash.xxh3_128_hexdigest(path.read_bytes())


def _resuming(settings: Mapping[str, Any]) -> str:
    """How the run of these settings is resumed."""
    if not settings.get("command"):
        return "search(..., resume=True) with the same arguments"
    words = shlex.split(settings["command"])
    kept = [word for word in words if word not in ("--resume", "--force")]
    return shlex.join([*kept, "--resume"])


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_name(_TEMPORARY)
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_settings(folder: Path) -> dict[str, Any]:
    """Contents of run.json."""
    try:
        settings: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        missing = "there is no run.json" if folder.exists() else "there is no such folder"
        raise RunError(f"{folder} holds no run ({missing})") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{folder}/run.json cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise RunError(f"{folder}/run.json cannot be read: it holds no table of settings")
    return settings


def write_references(path: Path, references: PointSet) -> None:
    """Write base, experts and controls; numbers read back bit for bit."""
    import pandas as pd

    columns: dict[str, Any] = {"model": list(references.labels)}
    for split in references.splits:
        for j, task in enumerate(references.tasks):
            columns[f"{task}:{split}"] = references.values(split)[:, j]
    pd.DataFrame(columns).to_csv(path, index=False, lineterminator="\n")


def read_references(path: Path, settings: Mapping[str, Any]) -> PointSet:
    """Read what :func:`write_references` wrote."""
    rows = read_rows(path)
    result, tasks = settings["result"], tuple(settings["tasks"])

    def values(split: str) -> Array:
        return np.array([[float(row[f"{task}:{split}"]) for task in tasks] for row in rows])

    held_out = result["scale_test"] is not None
    return PointSet(
        tuple(row["model"] for row in rows),
        tasks,
        tuple(Metric(**metric) for metric in result["metrics"]),
        values("search"),
        values("test") if held_out else None,
        np.array(result["scale_search"]),
        np.array(result["scale_test"]) if held_out else None,
    )


def read_evaluated(path: Path, references: PointSet) -> Array:
    """Metric values of every evaluation of a run, shape ``(N, M)``; NaN where it failed."""
    keys = [f"{t}/{m.name}" for t, m in zip(references.tasks, references.metrics, strict=True)]
    try:
        return np.array(
            [
                [float(row[key]) if row["status"] == "ok" else np.nan for key in keys]
                for row in read_rows(path)
            ]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not an evaluation log of this run ({error})") from error
