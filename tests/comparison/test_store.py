"""The store of a study: versions, concurrency, and rows that survive."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3

import fake_study as fake
import numpy as np
import pytest

from moofusion.comparison import Store, StudyData
from moofusion.errors import RunError


def _fill(path, cell, count):
    with Store(path) as store:
        for number in range(1, count + 1):
            store.add_evaluation(
                cell,
                "p",
                number,
                np.array([cell, number / 3]),
                failed=False,
                feasible=True,
                metrics=[0.1, float("nan")],
                cost=1.0,
                paid=1.0,
                gradient=(0.0, 0.0),
                full_cost=1.0,
                seconds=0.1,
                elapsed=float(number),
            )


def _start(path, cell):
    with Store(path) as store:
        store.start(cell, {"device": "cpu"}, front_size=3)


@pytest.fixture
def path(tmp_path):
    with Store(tmp_path / "study.db") as store:
        store.add_problem("p", "title", {"key": [1, 2]})
        for seed in (1, 2):
            store.add_cell("p", "nsga2", seed, "evaluations=5")
    return tmp_path / "study.db"


def test_numbers_come_back_bit_for_bit(path):
    x = np.array([1 / 3, np.nextafter(0.1, 1)])
    with Store(path) as store:
        store.add_measurement(
            "p", "test", x, failed=True, metrics=[np.pi, np.inf], cost=2.0, seconds=0.5
        )
        ((key, (failed, metrics, cost, _)),) = store.measurements("p", "test").items()

    assert np.array_equal(np.array(json.loads(key)), x)
    assert failed
    assert metrics == [np.pi, np.inf]
    assert cost == 2.0


def test_a_run_whose_process_ended_waits_again(path):
    def status():
        with Store(path) as store:
            return [cell.status for cell in store.cells()]

    begin = multiprocessing.get_context("spawn").Process(target=_start, args=(path, 1))
    begin.start()
    begin.join()
    _start(path, 2)
    assert status() == ["pending", "running"]
    with Store(path) as store:
        assert store.machine(2) == {"device": "cpu"}
        store.put_back(2)
    assert status() == ["pending", "pending"]


def test_entering_the_same_again_changes_nothing(path):
    _fill(path, 1, 3)
    with Store(path) as store:
        store.add_problem("p", "other", {})
        store.add_cell("p", "nsga2", 1, "evaluations=5")
        before = [tuple(row) for row in store.evaluations(1)]
    _fill(path, 1, 3)
    with Store(path) as store:
        assert store.problems() == {"p": ("title", {"key": [1, 2]})}
        assert len(store.cells()) == 2
        assert [tuple(row) for row in store.evaluations(1)] == before


def test_two_processes_write_while_a_third_reads(path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_fill, args=(path, cell, 200)) for cell in (1, 2)]
    for worker in workers:
        worker.start()
    seen = 0
    with Store(path, create=False) as reader:
        while any(worker.is_alive() for worker in workers):
            count = sum(cell.evaluations for cell in reader.cells())
            assert count >= seen
            seen = count
        assert [cell.evaluations for cell in reader.cells()] == [200, 200]
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_a_newer_file_is_refused_and_left_alone(path):
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    db.close()
    before = path.read_bytes()

    with pytest.raises(RunError, match=r"newer moofusion \(schema 99.*update moofusion"):
        Store(path)

    assert path.read_bytes() == before


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.db").write_text("hello, this is certainly not a database at all" * 50)
    with pytest.raises(RunError, match="not a study"):
        Store(tmp_path / "text.db")
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE things (a)")
    db.close()
    with pytest.raises(RunError, match="not a study"):
        Store(tmp_path / "other.db")
    with pytest.raises(RunError, match="no store"):
        Store(tmp_path / "missing.db", create=False)
    assert not (tmp_path / "missing.db").exists()


def test_a_study_is_read_as_of_one_moment_while_others_write(tmp_path, monkeypatch):
    path = tmp_path / "study.db"
    fake.write_fake_study(path, problems={"two": 2}, algorithms=("nsga2",), seeds=(1,))
    with Store(path) as store:
        problem = store.cells()[0].problem
        store.add_cell(problem, "nsga2", 2, "evaluations=24")
        late = store.cells()[-1].id
    read = Store.measurements

    def written_to_meanwhile(self, *where):
        found = read(self, *where)
        with Store(path) as other:
            other.add_evaluation(
                late, problem, 1, np.array([0.3, 0.3]), failed=False, feasible=True,
                metrics=[0.1, 0.2], cost=1.0, paid=1.0, gradient=(0.0, 0.0), full_cost=1.0,
                seconds=0.1, elapsed=1.0,
            )  # fmt: skip
        return found

    monkeypatch.setattr(Store, "measurements", written_to_meanwhile)
    assert [len(run.X) for run in StudyData.read(path).runs] == [24, 0]
    assert [len(run.X) for run in StudyData.read(path).runs] == [24, 1]
