"""Trained routers on the report page: it computes what Python does, and its command works."""

import json
import shlex

import numpy as np
import pytest
from reader import Page
from runs import cli, write_problem

from moofusion.algorithms import ParetoRouter
from moofusion.comparison import Study, StudyData
from moofusion.comparison.cell_files import router_file
from moofusion.comparison.report import write_report
from moofusion.comparison.report.routers import router_data
from moofusion.comparison.report.scores import sections
from moofusion.errors import ConfigurationError
from moofusion.problems import get_problem

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
METHOD = "pwemoe:routed=mlp,steps=30,lr=0.1,n_points=5"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, vit_folders, images):
    """A study of PWEMoE and its controls on tiny vision models. Read only."""
    folder = tmp_path_factory.mktemp("routers")
    toy = write_problem(folder, vit_folders, images)
    bounds = {"kind": "module-wise", "lower": -9.0, "upper": 9.0}
    problem = get_problem(toy, space=bounds)
    algorithms = [METHOD, "constant:routed=mlp,steps=3"]
    return Study(
        problem, algorithms, seeds=[1, 2], evaluations=5, store=folder / "my study.db"
    ).run()


def _router(study, cell):
    return ParetoRouter.load(router_file(study.path, cell))


def test_one_router_of_each_algorithm_that_answers_to_preferences(trained):
    (section,) = sections(StudyData.read(trained.path))
    (entry,) = router_data(section, trained.path)
    typical = section.typical(METHOD)
    assert entry["label"] == f"pwemoe, seed {typical.cell.seed}"
    router = _router(trained, typical.cell)
    assert np.array_equal(entry["layers"][1]["b"], router.network.split(router.theta)["b2"])
    assert len(entry["points"]) == len(typical.reported)
    router_file(trained.path, typical.cell).rename(trained.path.parent / "aside")
    try:
        (other,) = router_data(section, trained.path)
        assert other["label"] != entry["label"]
    finally:
        (trained.path.parent / "aside").rename(router_file(trained.path, typical.cell))


def test_a_damaged_router_is_left_out_with_a_warning(trained):
    (section,) = sections(StudyData.read(trained.path))
    file = router_file(trained.path, section.typical(METHOD).cell)
    content = file.read_bytes()
    file.write_bytes(content[:20])
    try:
        with pytest.warns(UserWarning, match="a router is left out"):
            assert router_data(section, trained.path) == []
    finally:
        file.write_bytes(content)


def test_the_page_asks_the_router(browser, trained, tmp_path, no_figures):
    pytest.importorskip("plotly", reason="the extra [report] is not installed")
    page = Page(browser, write_report(trained.path, tmp_path / "report"))
    (section,) = sections(StudyData.read(trained.path))
    run = section.typical(METHOD)
    router = _router(trained, run.cell)
    for weights in ([100, 0], [30, 70], [7, 93], [50, 50]):
        page.slide(weights)
        r = np.array(weights) / 100
        L = router.coefficients(r)
        vector = page.js("return routerVector(section().routers[0], state.weights)")
        assert np.array(vector) == pytest.approx(L.ravel(), abs=1e-12)
        cells = page.js(
            "return [...document.querySelectorAll('.coefficients-of-router tbody tr')]"
            ".map(r => [...r.children].map(c => c.textContent))"
        )
        assert [row[0] for row in cells] == [*router.names, "all else"]
        for row, values in zip(
            cells, router.network.forward(router.theta, r[None])[0], strict=False
        ):
            assert row[1:] == [f"{v:.4f}" for v in values]
        off = np.abs(run.X[run.reported] - L.ravel()).max(axis=1)
        shown = page.js(
            "return [...document.querySelectorAll('#routers table.model tbody tr')]"
            ".map(r => r.children[1].textContent)"
        )
        nearest = run.reported_values("test")[int(off.argmin())]
        assert shown == [f"{100 * v:.1f} %" for v in nearest]
    assert shlex.split(page.text("#router-command-0"))[:3] == ["moofusion", "export", "--router"]
    page.slide([0, 0])
    assert not page.find("#routers").is_displayed()
    page.slide([20, 80])
    words = shlex.split(page.text("#router-command-0"))
    out = tmp_path / "out"
    done = cli(*words[1:-1], out)
    assert done.code == 0, done.err
    recipe = json.loads((out / "merge.json").read_text())
    assert np.array_equal(recipe["coefficients"], router.coefficients([0.2, 0.8]))
    assert recipe["head"] == "bars"
    # Its algorithm hidden, the router is not shown either.
    page.browser.find_elements("css selector", "#algorithms input")[0].click()
    assert not page.find("#routers").is_displayed()


def test_a_router_file_makes_a_checkpoint_for_any_preference(trained, tmp_path):
    cell = next(c for c in trained.cells() if c.algorithm == METHOD)
    file, out = router_file(trained.path, cell), tmp_path / "out"
    done = cli("export", "--router", file, "--preference", "0.3,0.7", "--to", out)
    assert done.code == 0, done.err
    recipe = json.loads((out / "merge.json").read_text())
    router = ParetoRouter.load(file)
    assert np.array_equal(recipe["coefficients"], router.coefficients([0.3, 0.7]))
    problem = router.reopen()
    found = problem.evaluator.measure(router.coefficients([0.3, 0.7])[None], "test")[0]
    measured = {
        t: m.metrics["accuracy"] for t, m in zip(router.tasks, found.measurements, strict=True)
    }
    assert recipe["metrics"]["test"] == measured


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--preference", "0.3"), "needs 2 numbers"),
        ((), "say for which preference"),
        (("--preference", "1,1", "--point", "2"), "beside it go only"),
        (("--preference", "1,1", "--by", "knee"), "beside it go only"),
        (("study.db", "--preference", "1,1"), "beside it go only"),
    ],
)
def test_what_a_router_cannot_be_asked(trained, tmp_path, words, message):
    cell = next(c for c in trained.cells() if c.algorithm == METHOD)
    file = router_file(trained.path, cell)
    done = cli("export", "--router", file, "--to", tmp_path / "out", *words)
    assert done.code == 2
    assert message in " ".join(done.err.split())


def test_a_command_without_anything_to_export_from(tmp_path):
    done = cli("export", "--preference", "a=1", "--to", tmp_path / "out")
    assert done.code == 2
    assert "a run folder, the store of a study, or --router FILE" in " ".join(done.err.split())


def test_a_router_of_a_problem_in_memory_needs_it(problem, tmp_path):
    import tiny

    twin = tiny.net_problem(space="module-wise")
    router = ParetoRouter(twin, routed="all", rng=np.random.default_rng(0))
    with pytest.raises(ConfigurationError, match="trained on a problem in memory"):
        ParetoRouter.load(router.save(tmp_path / "r.safetensors")).reopen()
