"""The study store: one SQLite file in which every evaluation is a row as it happens."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from moofusion.errors import RunError

__all__ = ["SCHEMA_VERSION", "Cell", "Store"]

Array = NDArray[np.float64]

SCHEMA_VERSION = 3
_BUSY_SECONDS = 120

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE problem (
    fingerprint TEXT PRIMARY KEY,   -- of weights, space and search data
    title TEXT NOT NULL,
    position INTEGER NOT NULL,      -- order in tables
    description TEXT NOT NULL       -- JSON: tasks, metrics, variables, spec, anchors, controls
);
CREATE TABLE cell (
    id INTEGER PRIMARY KEY,
    problem TEXT NOT NULL REFERENCES problem,
    algorithm TEXT NOT NULL,
    position INTEGER NOT NULL,      -- order of the algorithm in tables
    seed INTEGER NOT NULL,
    budget TEXT NOT NULL,           -- such as "evaluations=200"
    status TEXT NOT NULL DEFAULT 'pending',  -- pending, running, done, failed
    message TEXT NOT NULL DEFAULT '',
    machine TEXT NOT NULL DEFAULT '',        -- JSON: device, threads, versions
    front_size INTEGER,                      -- most models that are measured on test
    started REAL,
    finished REAL,
    optimizer_seconds REAL,
    UNIQUE (problem, algorithm, seed, budget)
);
CREATE TABLE evaluation (
    cell INTEGER NOT NULL REFERENCES cell,
    number INTEGER NOT NULL,        -- from 1
    x TEXT NOT NULL,                -- JSON, exact; an object where the model is no merge
    feasible INTEGER NOT NULL,      -- whether it meets every constraint
    cost REAL NOT NULL,             -- cost units; 0 for a candidate this cell has met before
    paid REAL NOT NULL,             -- cost units really spent; 0 if answered from the cache
    gradient_cost REAL NOT NULL,    -- cost units of the gradients taken since the row before
    gradient_seconds REAL NOT NULL, -- and their wall-clock seconds
    elapsed REAL NOT NULL,          -- wall-clock seconds since the cell began
    PRIMARY KEY (cell, number)
) WITHOUT ROWID;
CREATE TABLE measurement (
    problem TEXT NOT NULL REFERENCES problem,
    split TEXT NOT NULL,
    x TEXT NOT NULL,
    status TEXT NOT NULL,           -- ok, failed
    metrics TEXT NOT NULL,          -- JSON: values in the order of the problem's metrics
    cost REAL NOT NULL,
    seconds REAL NOT NULL,          -- device seconds of the merge and the forward passes
    PRIMARY KEY (problem, split, x)
) WITHOUT ROWID;
CREATE TABLE final (
    cell INTEGER NOT NULL REFERENCES cell,
    x TEXT NOT NULL,                -- a member of the set the algorithm itself returned
    PRIMARY KEY (cell, x)
) WITHOUT ROWID;
CREATE VIEW log AS
    SELECT problem.title AS problem, cell.algorithm, cell.seed, cell.budget, evaluation.number,
        evaluation.x, measurement.status, evaluation.feasible, measurement.metrics,
        evaluation.cost, evaluation.paid, evaluation.gradient_cost, evaluation.elapsed,
        measurement.seconds, cell.problem AS fingerprint
    FROM evaluation
    JOIN cell ON cell.id = evaluation.cell
    JOIN problem ON problem.fingerprint = cell.problem
    JOIN measurement ON measurement.problem = cell.problem
        AND measurement.split = 'search' AND measurement.x = evaluation.x;
"""


@dataclass(frozen=True)
class Cell:
    """One run of a study: a problem, an algorithm, a seed and a budget.

    Attributes:
        id: Number in the store.
        problem: Fingerprint of the problem.
        title: Title of the problem.
        algorithm: Name with parameters.
        seed: Seed of the algorithm.
        budget: Budget, such as ``"evaluations=200"``.
        status: ``"pending"``, ``"running"``, ``"done"`` or ``"failed"``.
        message: Why it failed.
        front_size: Most models that are measured on test; None before it was started.
        evaluations: Rows so far.
    """

    id: int
    problem: str
    title: str
    algorithm: str
    seed: int
    budget: str
    status: str
    message: str
    front_size: int | None
    evaluations: int


class Store:
    """Reader and writer of the store of one study.

    Writes are short transactions in write-ahead mode: readers are never blocked, writers in other
    processes wait for each other, and a killed process loses at most the evaluation in flight.

    Args:
        path: SQLite file; made if it is missing, unless `create` is off.
        create: Whether a missing file may be made.

    Raises:
        RunError: The file is missing, not a study, or of a newer version.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "s.db") as store:
        ...     store.cells()
        []
    """

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        self.path = Path(path)
        if not self.path.exists() and not create:
            raise RunError(f"there is no store {self.path}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None
            )
            self._connection.row_factory = sqlite3.Row
            self._prepare()
        except (sqlite3.DatabaseError, OSError) as error:
            raise RunError(f"{self.path} is not a study of moofusion: {error}") from error

    def _prepare(self) -> None:
        run = self._connection.execute
        with self._writing():
            if run("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                for statement in _SCHEMA.split(";\n"):
                    run(statement)
                run("INSERT INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        found = int(run("SELECT value FROM meta WHERE key = 'schema'").fetchone()[0])
        if found > SCHEMA_VERSION:
            raise RunError(
                f"{self.path} was written by a newer moofusion (schema {found}, this version "
                f"reads up to {SCHEMA_VERSION}); update moofusion to open it"
            )
        if found < SCHEMA_VERSION:
            raise RunError(
                f"{self.path} was written by a moofusion from before the first release (schema "
                f"{found}, this version reads {SCHEMA_VERSION}); make the study again"
            )

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that waits for its turn, and is undone if it cannot be finished."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[Store]:
        """All that is read within is of one moment, whatever other processes write meanwhile."""
        self._connection.execute("BEGIN")
        try:
            yield self
        finally:
            self._connection.execute("COMMIT")

    # ------------------------------------------------------------------ what is to be run

    def add_problem(self, fingerprint: str, title: str, description: Mapping[str, Any]) -> None:
        """Enter a problem, or leave the one with this fingerprint as it is."""
        with self._writing() as db:
            db.execute(
                "INSERT OR IGNORE INTO problem VALUES (?, ?, (SELECT count(*) FROM problem), ?)",
                (fingerprint, title, json.dumps(description)),
            )

    def describe(self, fingerprint: str, description: Mapping[str, Any]) -> None:
        """Replace the description of a problem that is there."""
        with self._writing() as db:
            db.execute(
                "UPDATE problem SET description = ? WHERE fingerprint = ?",
                (json.dumps(description), fingerprint),
            )

    def problems(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Title and description of every problem by fingerprint, in the order of entry."""
        rows = self._connection.execute("SELECT * FROM problem ORDER BY position")
        return {r["fingerprint"]: (r["title"], json.loads(r["description"])) for r in rows}

    def add_cell(self, problem: str, algorithm: str, seed: int, budget: str) -> None:
        """Enter a run, or leave the same one as it is."""
        with self._writing() as db:
            place = db.execute(
                "SELECT coalesce((SELECT min(position) FROM cell WHERE algorithm = ?), "
                "(SELECT count(DISTINCT algorithm) FROM cell))",
                (algorithm,),
            ).fetchone()[0]
            db.execute(
                "INSERT OR IGNORE INTO cell (problem, algorithm, position, seed, budget) "
                "VALUES (?, ?, ?, ?, ?)",
                (problem, algorithm, place, seed, budget),
            )

    def cells(self) -> list[Cell]:
        """All runs, by problem, algorithm and seed."""
        rows = self._connection.execute(
            "SELECT cell.*, problem.title, (SELECT count(*) FROM evaluation e "
            "WHERE e.cell = cell.id) AS evaluations FROM cell "
            "JOIN problem ON problem.fingerprint = cell.problem "
            "ORDER BY problem.position, cell.position, cell.seed, cell.id"
        )
        fields = Cell.__dataclass_fields__
        return [
            Cell(**{name: row[name] for name in fields} | {"status": _status(row)}) for row in rows
        ]

    # ------------------------------------------------------------------ while it runs

    def start(self, cell: int, machine: Mapping[str, Any], *, front_size: int) -> None:
        """Mark a run as begun by this process."""
        process = {"host": platform.node(), "pid": os.getpid()}
        with self._writing() as db:
            db.execute(
                "UPDATE cell SET status = 'running', message = '', machine = ?, "
                "front_size = ?, started = coalesce(started, ?) WHERE id = ?",
                (json.dumps({**machine, "process": process}), front_size, time.time(), cell),
            )

    def add_evaluation(
        self,
        cell: int,
        problem: str,
        number: int,
        x: Array | str,
        *,
        failed: bool,
        feasible: bool,
        metrics: Sequence[float],
        cost: float,
        paid: float,
        gradient: tuple[float, float],
        full_cost: float,
        seconds: float,
        elapsed: float,
    ) -> None:
        """Write one evaluation of a run; one that is there already is left alone.

        `x` is a decision vector, or the key of a model that has none (a JSON object); `gradient`
        are cost units and seconds of the gradients taken since the row before.
        """
        key = _key(x)
        with self._writing() as db:
            self._measured(db, problem, "search", key, failed, metrics, full_cost, seconds)
            db.execute(
                "INSERT OR IGNORE INTO evaluation VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (cell, number, key, int(feasible), cost, paid, *gradient, elapsed),
            )

    def add_measurement(
        self,
        problem: str,
        split: str,
        x: Array | str,
        *,
        failed: bool,
        metrics: Sequence[float],
        cost: float,
        seconds: float,
    ) -> None:
        """Write what a model measures on a split, outside of any run."""
        with self._writing() as db:
            key = _key(x)
            self._measured(db, problem, split, key, failed, metrics, cost, seconds)

    @staticmethod
    def _measured(
        db: sqlite3.Connection,
        problem: str,
        split: str,
        key: str,
        failed: bool,
        metrics: Sequence[float],
        cost: float,
        seconds: float,
    ) -> None:
        values = json.dumps([float(v) for v in metrics])
        status = "failed" if failed else "ok"
        db.execute(
            "INSERT OR IGNORE INTO measurement VALUES (?, ?, ?, ?, ?, ?, ?)",
            (problem, split, key, status, values, cost, seconds),
        )

    def finish(self, cell: int, final: Sequence[Array | str], optimizer_seconds: float) -> None:
        """Mark a run as done, with the set that the algorithm returned."""
        with self._writing() as db:
            db.executemany(
                "INSERT OR IGNORE INTO final VALUES (?, ?)",
                [(cell, _key(row)) for row in final],
            )
            db.execute(
                "UPDATE cell SET status = 'done', finished = ?, optimizer_seconds = ? WHERE id = ?",
                (time.time(), optimizer_seconds, cell),
            )

    def fail(self, cell: int, message: str) -> None:
        """Mark a run as failed; a later run of the study tries it again."""
        with self._writing() as db:
            db.execute(
                "UPDATE cell SET status = 'failed', message = ? WHERE id = ?", (message, cell)
            )

    def put_back(self, cell: int) -> None:
        """Mark a run as waiting: it was interrupted, and keeps what it has."""
        with self._writing() as db:
            db.execute("UPDATE cell SET status = 'pending' WHERE id = ?", (cell,))

    # ------------------------------------------------------------------ reading

    def measurements(
        self, problem: str, split: str
    ) -> dict[str, tuple[bool, list[float], float, float]]:
        """By exact decision vector (JSON): failed, metrics, cost, seconds."""
        rows = self._connection.execute(
            "SELECT * FROM measurement WHERE problem = ? AND split = ?", (problem, split)
        )
        return {
            r["x"]: (r["status"] == "failed", json.loads(r["metrics"]), r["cost"], r["seconds"])
            for r in rows
        }

    def evaluations(self, cell: int) -> list[sqlite3.Row]:
        """Rows of one run in order: number, x, feasible, costs, elapsed."""
        return self._connection.execute(
            "SELECT * FROM evaluation WHERE cell = ? ORDER BY number", (cell,)
        ).fetchall()

    def final(self, cell: int) -> list[str]:
        """Decision vectors (JSON) that the algorithm of a run returned."""
        rows = self._connection.execute("SELECT x FROM final WHERE cell = ? ORDER BY x", (cell,))
        return [row["x"] for row in rows]

    def machine(self, cell: int) -> dict[str, Any]:
        """Device, threads and versions of a run; empty before it was started."""
        query = "SELECT machine FROM cell WHERE id = ?"
        text = self._connection.execute(query, (cell,)).fetchone()["machine"]
        found = dict(json.loads(text)) if text else {}
        found.pop("process", None)
        return found

    def timing(self, cell: int) -> tuple[float, float]:
        """Wall-clock and optimizer seconds of a finished run."""
        row = self._connection.execute(
            "SELECT finished - started AS wall, optimizer_seconds FROM cell WHERE id = ?", (cell,)
        ).fetchone()
        return float(row["wall"] or 0.0), float(row["optimizer_seconds"] or 0.0)


def _status(row: sqlite3.Row) -> str:
    """Status of a run; one whose process has ended on this machine waits to be gone on with."""
    status: str = row["status"]
    process = json.loads(row["machine"]).get("process") if status == "running" else None
    if process and process["host"] == platform.node() and not psutil.pid_exists(process["pid"]):
        return "pending"
    return status


def _key(x: Array | str) -> str:
    return x if isinstance(x, str) else json.dumps(x.tolist())
