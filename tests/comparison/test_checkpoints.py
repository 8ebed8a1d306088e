"""Fine-tuned models as points beside a front of merges."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny
from pymoo.optimize import minimize
from runs import cli, write_problem

from moofusion.algorithms import get_algorithm
from moofusion.baselines import train_rays
from moofusion.comparison import Study, StudyData, checkpoint_points, hypervolume, pooled_result
from moofusion.comparison.report import write_report
from moofusion.comparison.report.payload import section_data
from moofusion.comparison.report.scores import sections
from moofusion.errors import ConfigurationError, RunError
from moofusion.problems import get_problem


def test_trained_models_are_points_on_the_scale_of_the_problem(tmp_path):
    problem = tiny.net_problem(("a", "b"))
    trained = train_rays(problem, tmp_path / "out", rays=2, steps=60, lr=1e-2, batch_size=20)
    other = tiny.net_problem(("a", "b"), space="block-wise")
    points = checkpoint_points(other, trained)
    assert points.labels == ("ls ray-001", "ls ray-002")
    assert points.splits == ("search", "test")
    accuracy = trained.rays[0].metrics["test"]["b"]["accuracy"]
    expected = other.normalize(np.array([[0.0, 1 - accuracy]]), split="test")[0, 1]
    assert points.normalized("test")[0, 1] == pytest.approx(expected)
    assert hypervolume(points.normalized("search"), reference=1.1) > 0


def test_points_of_other_models_or_tasks_are_refused(tmp_path):
    trained = train_rays(tiny.net_problem(("a", "b")), tmp_path / "out", rays=1, steps=1)
    with pytest.raises(ConfigurationError, match="trained from other models"):
        checkpoint_points(tiny.net_problem(("a", "c")), trained)
    with pytest.raises(ConfigurationError, match="models for a, b, not for b, a"):
        checkpoint_points(tiny.net_problem(("a", "b"), ("b", "a")), trained)


# ------------------------------------------------------------------ as rows of a study


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Five rays, and a problem to compare them on. Read only."""
    out = tmp_path_factory.mktemp("rays") / "ls"
    problem = tiny.net_problem(("a", "b"))
    return train_rays(problem, out, rays=5, steps=20, lr=1e-2, batch_size=20), problem


def _run(problem, folder, path, **options):
    options = {"seeds": 2, "controls": False} | options
    return Study(problem, ["random", f"checkpoints:folder={folder}"], store=path, **options)


# 20 steps x 2 tasks x 20 samples x 3, and the search split of both tasks.
ONE = 20 * 2 * 20 * 3 + 2 * tiny.SIZES["search"]


@pytest.mark.parametrize(("cost", "count"), [(5 * ONE, 5), (3 * ONE + ONE // 2, 3), (ONE, 1)])
def test_a_budget_of_cost_takes_the_checkpoints_it_pays_for(trained, tmp_path, cost, count):
    rays, problem = trained
    other = tiny.net_problem(("a", "b"), space="block-wise")
    study = _run(other, rays.folder, tmp_path / "study.db", cost=cost).run()
    runs = [r for r in study.results().runs if r.cell.algorithm.startswith("checkpoints")]
    assert len(runs) == 2
    for run in runs:
        assert run.cost.tolist() == [ONE] * count
        assert run.cost.sum() <= cost
        assert np.isnan(run.X).all()
        # From the middle outwards: half and half, then one corner, then the other.
        wanted = [rays.rays[i] for i in (2, 0, 4, 1, 3)[:count]]
        assert [f.rpartition("/")[2] for f in run.folders] == [ray.folder for ray in wanted]
        for i, ray in enumerate(wanted):
            expected = [ray.metrics["search"][t]["accuracy"] for t in ("a", "b")]
            assert run.values[i].tolist() == expected
        for i in run.front:
            expected = [wanted[i].metrics["test"][t]["accuracy"] for t in ("a", "b")]
            assert run.test[int(i)].tolist() == expected
        assert set(run.test) == set(run.front.tolist()) == set(run.final.tolist())
    row = study.results().table().set_index("algorithm").loc[runs[0].cell.algorithm]
    points = checkpoint_points(problem, rays).normalized("test")
    if count == 5:
        assert row["HV test"] <= hypervolume(points, reference=1.1) + 1e-12
    assert row["HV test"] > 0


def test_evaluations_count_models(trained, tmp_path):
    rays, problem = trained
    study = _run(problem, rays.folder, tmp_path / "s.db", evaluations=2).run()
    run = study.results().runs[-1]
    assert len(run.X) == 2


def test_checkpoints_too_dear_or_of_other_things_are_refused_at_once(trained, tmp_path):
    rays, problem = trained
    path = tmp_path / "s.db"
    with pytest.raises(ConfigurationError, match="pays for none of the checkpoints"):
        _run(problem, rays.folder, path, cost=ONE - 1)
    with pytest.raises(ConfigurationError, match="trained from other models"):
        _run(tiny.net_problem(("a", "c")), rays.folder, path, evaluations=2)
    with pytest.raises(ConfigurationError, match="measured on another search split, or with other"):
        _run(tiny.net_problem(("a", "b"), objective="loss"), rays.folder, path, evaluations=2)
    with pytest.raises(RunError, match=r"baselines\.json cannot be read"):
        _run(problem, tmp_path / "nothing", path, evaluations=2)
    with pytest.raises(ConfigurationError, match=r"folder=runs/finetuned"):
        Study(problem, ["checkpoints"], evaluations=2, store=path)
    with pytest.raises(ConfigurationError, match="enter them in a study"):
        minimize(problem, get_algorithm(f"checkpoints:folder={rays.folder}", problem))


def test_a_folder_for_each_seed(trained, tmp_path):
    _, problem = trained
    for seed in (3, 4):
        train_rays(
            problem, tmp_path / f"ls-{seed}", rays=2, steps=5, lr=1e-2, batch_size=20, seed=seed
        )
    study = _run(problem, tmp_path / "ls-{seed}", tmp_path / "s.db", evaluations=2, seeds=[3, 4])
    runs = [r for r in study.run().results().runs if r.cell.algorithm.startswith("checkpoints")]
    assert [set(f.split("/")[-2] for f in run.folders) for run in runs] == [{"ls-3"}, {"ls-4"}]


def test_trained_again_in_the_same_folder_is_another_model(trained, tmp_path):
    _, problem = trained
    folder, path = tmp_path / "ls", tmp_path / "s.db"
    found = []
    for steps in (1, 30):
        shutil.rmtree(folder, ignore_errors=True)
        done = train_rays(problem, folder, rays=2, steps=steps, lr=3e-2, batch_size=20)
        study = _run(problem, folder, path, evaluations=2, seeds=[steps]).run()
        run = next(r for r in study.results().runs if r.cell.seed == steps and any(r.folders))
        found.append(run.values.tolist())
        assert run.values[0].tolist() == [
            done.rays[0].metrics["search"][t]["accuracy"] for t in ("a", "b")
        ]
    assert found[0] != found[1]


def test_a_chosen_checkpoint_is_copied_as_it_is(vit_folders, images, tmp_path):
    toy = write_problem(tmp_path, vit_folders, images)
    problem = get_problem(toy)
    train_rays(problem, tmp_path / "ls", rays=2, steps=3, lr=1e-3, batch_size=8)
    study = tmp_path / "s.db"
    _run(problem, tmp_path / "ls", study, evaluations=3, seeds=1).run()
    name = f"checkpoints:folder={tmp_path / 'ls'}"
    result = pooled_result(StudyData.read(study), algorithms=[name])
    out = tmp_path / "out"
    done = cli("export", study, "--algorithm", name, "--preference", "dots=1", "--to", out)
    assert done.code == 0, done.err
    source = Path(result.front.folder(result.front.choose("dots=1")))
    weights = "model.safetensors"
    assert (out / weights).read_bytes() == (source / weights).read_bytes()
    again = cli("export", study, "--algorithm", name, "--preference", "dots=1", "--to", out)
    assert again.code == 2
    assert "exists already" in again.err
    with pytest.raises(RunError, match="with precision float32, not float16"):
        result.export(tmp_path / "half", "dots=1", dtype="float16")
    assert not (tmp_path / "half").exists()


def test_a_report_shows_them_like_any_algorithm(trained, tmp_path):
    rays, problem = trained
    path = tmp_path / "s.db"
    _run(problem, rays.folder, path, cost=5 * ONE, seeds=2).run()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "report.html was left out")
        write_report(path, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "checkpoints" in text
    name = f"checkpoints:folder={rays.folder}"
    front = pooled_result(StudyData.read(path), algorithms=[name]).front
    assert front.table()["checkpoint"].tolist() == list(front.folders)
    assert all(front.folders)
    (section,) = sections(StudyData.read(path))
    payload = section_data(section, path)
    assert json.dumps(payload, allow_nan=False)
    shown = next(a for a in payload["algorithms"] if a["algorithm"].startswith("checkpoints"))
    assert {m["folder"].rpartition("/")[0] for m in shown["models"]} == {str(rays.folder)}
    assert all(m["x"] == [] and m["cost"] == ONE for m in shown["models"])
    assert len({m["label"] for m in shown["models"]}) == len(shown["models"])
