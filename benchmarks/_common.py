"""What the benchmarks share: timing, medians, a small table, one line of JSON."""

from __future__ import annotations

import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def alternate(calls: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """Time several calls in turns, so that all of them meet the same machine.

    One warm-up round is not counted; every second round runs backwards.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            times[name].append(seconds(calls[name]))
    return times


def median_and_spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, first and third quartile."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return middle, low, high


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A plain table: first column to the left, the rest to the right."""
    cells = [[str(cell) for cell in row] for row in [heads, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    for row in cells:
        first, *rest = row
        line = [first.ljust(widths[0])]
        line += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  ".join(line))


def print_json(benchmark: str, **values: Any) -> None:
    """One line that a program can read, with the machine and the versions."""
    import torch

    import moofusion

    machine = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "moofusion": moofusion.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
    }
    print(json.dumps({"benchmark": benchmark, **values, **machine}))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def peak_bytes(call: Callable[[], object]) -> int:
    """Memory that a call needs at its peak beyond what the process held before (Linux).

    Set MALLOC_MMAP_THRESHOLD_=65536 in the environment, or what was freed before hides it.
    """
    gc.collect()
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak becomes what is held now
    before = _resident("VmRSS")
    call()
    return max(_resident("VmHWM") - before, 0)


def _resident(key: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(key))
    return 1024 * int(line.split()[1])
