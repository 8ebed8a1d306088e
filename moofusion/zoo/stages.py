"""The stages of a build: each model is a stage, kept when an interrupted build goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from moofusion.zoo import checkpoints

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: (title, steps) -> what to call after each step.
Bar = Callable[[str, int], Callable[[], object]]


def workplace(target: Path) -> Path:
    """The temporary sibling of `target`, where finished stages of an earlier build may lie."""
    work = target.with_name(f".{target.name}.building")
    (work / "models").mkdir(parents=True, exist_ok=True)
    return work


@contextlib.contextmanager
def with_threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` threads for a while; None leaves it its own choice."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def bars(show: bool) -> Iterator[Bar]:
    """Yield a function (title, steps) -> function to call after each step."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        *Progress.get_default_columns()[:-1],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        disable=not show,
    ) as shown:

        def bar(title: str, steps: int) -> Callable[[], object]:
            task = shown.add_task(title, total=steps)
            return lambda: shown.advance(task)

        yield bar


def stage_key(options: Sequence[object], arrays: Iterable[NDArray[Any]] = ()) -> str:
    """Digest of everything a stage depends on: a changed stage is trained again."""
    digest = hashlib.sha256(repr(options).encode())
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


class Stage:
    """One model of a build.

    Args:
        work: the folder of the build.
        name: of the model.
        key: see `stage_key`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     Stage(Path(place), "base", stage_key([1, "seed"])).finished()
        False
    """

    def __init__(self, work: Path, name: str, key: str) -> None:
        self.folder = work / "models" / name
        self._file = work / "stages" / f"{name}.json"
        self._key = key
        self._started = time.perf_counter()

    def finished(self) -> bool:
        """Whether it was trained before; what an earlier recipe left is removed."""
        if self.folder.exists() and self._file.exists():
            if json.loads(self._file.read_text())["key"] == self._key:
                return True
        shutil.rmtree(self.folder, ignore_errors=True)
        return False

    def finish(self, model: Any, beside: Callable[[Path], object], **facts: Any) -> None:
        """Write the model (see `checkpoints.save_checkpoint`) and what is to be known of it."""
        seconds = time.perf_counter() - self._started
        self._file.parent.mkdir(exist_ok=True)
        text = json.dumps({"key": self._key, **facts, "seconds": seconds})
        self._file.write_text(text, encoding="utf-8")
        checkpoints.save_checkpoint(model, self.folder, beside)
