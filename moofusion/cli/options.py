"""Options that several commands share, and what they mean."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moofusion.cli.display import err
from moofusion.errors import ConfigurationError

if TYPE_CHECKING:
    from moofusion.problems import MergeProblem

ProblemName = Annotated[str, typer.Argument(help="Name in the catalogue, or a .toml file.")]
Tasks = Annotated[
    str | None, typer.Option(help="Keep these tasks and their experts: mnist,fashion.")
]
Experts = Annotated[str | None, typer.Option(help="Keep these experts: mnist,fashion.")]
SpaceName = Annotated[
    str | None,
    typer.Option(help="task-wise, simplex, block-wise, module-wise, tensor-wise or depth-spline."),
]
Objective = Annotated[
    str | None, typer.Option(help="What every task optimizes: accuracy, macro_f1, loss or ece.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any value of the problem file: --set space.upper=0.8"),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")]
Form = Annotated[
    str, typer.Option("--as", help="model, or adapter where all experts are LoRA adapters.")
]
How = Annotated[
    str | None, typer.Option(help="Of an adapter: svd (compressed), cat or linear (factors).")
]
Rank = Annotated[
    int | None, typer.Option(min=1, help="Of an adapter, with svd; by default the ranks add up.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; part of reproducibility.")]


def open_problem(
    problem: str,
    tasks: str | None,
    experts: str | None,
    space: str | None,
    objective: str | None,
    overrides: list[str] | None,
    device: str | None,
    threads: int | None,
) -> MergeProblem:
    """The problem that the options describe, its models loaded."""
    with err.status(f"opening {problem} ..."):
        import torch

        from moofusion.problems import get_problem

        if threads is not None:
            torch.set_num_threads(threads)
        return get_problem(
            problem,
            tasks=names(tasks),
            experts=names(experts),
            space=space,
            objective=objective,
            device=device,
            overrides=dict(override(text) for text in overrides or []),
        )


def adapter_options(form: str, how: str | None, rank: int | None) -> str | None:
    """How to write an adapter, from ``--as``, ``--how`` and ``--rank``; None for a whole model."""
    if form not in ("model", "adapter"):
        raise ConfigurationError(f"--as {form!r}: expected model or adapter")
    if form == "adapter":
        return how or "svd"
    for option, value in (("--how", how), ("--rank", rank)):
        if value is not None:
            raise ConfigurationError(f"{option} {value} says how to write an adapter: --as adapter")
    return None


def names(text: str | None) -> list[str] | None:
    """A list of names from its text form ``a,b``."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def override(text: str) -> tuple[str, Any]:
    """Key and value of ``--set KEY=VALUE``; the value is read as TOML, else as text."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ConfigurationError(f"--set {text!r}: expected KEY=VALUE, such as space.upper=0.8")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value
