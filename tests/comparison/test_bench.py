"""Published tables: made by a study that ships, the same bytes each time, one run checked."""

import tomllib

import pytest

from moofusion.algorithms.registry import ALGORITHMS
from moofusion.cli.bench import bench as command
from moofusion.comparison import bench
from moofusion.errors import ConfigurationError, DataError, RunError, UnknownNameError

# Tables whose models do not ship.
BUILT_FIRST = {"languages": "lm3", "texts": "text3"}

STUDY = """# Two tasks,
# in short.
evaluations = 3
seeds = 2
front_size = 2
controls = false
algorithms = ["random:batch_size=2", "soup"]
problems = [{problem = "vision4", title = "two", tasks = ["animals", "objects"]}]
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Folder with the tables of a small study, and its study file."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "_FOLDER", folder)
        (folder / "tiny.toml").write_text(STUDY)
        study = bench.bench_study("tiny", folder / "tiny.db").run(threads=1)
        bench.publish_bench("tiny", study.path, folder / "out")
        yield folder


def test_every_table_that_ships_names_known_problems_and_algorithms(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("moofusion.comparison.study._describe", lambda problem, controls: {})
    monkeypatch.setattr(
        "moofusion.comparison.study.Store.add_problem",
        lambda self, fingerprint, title, described: seen.append(title),
    )
    monkeypatch.setattr("moofusion.comparison.study.Store.add_cell", lambda *args: None)
    monkeypatch.setattr("moofusion.zoo.folders.cache_folder", lambda name: tmp_path / name)
    monkeypatch.delenv("MOOFUSION_ZOO", raising=False)
    for path in sorted(bench._FOLDER.glob("*.toml")):
        before = len(seen)
        if path.stem in BUILT_FIRST:
            with pytest.raises(DataError, match=f"zoo build {BUILT_FIRST[path.stem]}"):
                bench.read_study(path, store=":memory:")
            continue
        assert bench.read_study(path, store=":memory:").algorithms
        assert len(seen) > before
    seen.clear()
    bench.bench_study("merge-methods", ":memory:", only="TIES")
    assert seen == ["TIES"]


def test_every_algorithm_is_in_a_published_study():
    studied = set()
    for path in bench._FOLDER.glob("*.toml"):
        named = tomllib.loads(path.read_text())["algorithms"]
        studied |= {name.partition(":")[0] for name in named}
    assert set(ALGORITHMS) - studied == {"checkpoints"}  # whole models, which a folder holds


def test_the_tables_say_how_they_were_made(published):
    text = (published / "out" / "tiny.md").read_text()
    assert text.startswith("# tiny\n\nTwo tasks, in short.\n\nMade by `moofusion bench tiny`,")
    assert "[tiny.csv](tiny.csv)" in text
    assert "base, experts and merges without search" in text
    assert "random search" in text or "random" in text
    assert "fingerprint" in text
    assert " s |" not in text  # no seconds


def test_the_same_study_gives_the_same_bytes(published, tmp_path):
    bench.publish_bench("tiny", published / "tiny.db", tmp_path)
    for name in ("tiny.md", "tiny.csv"):
        assert (tmp_path / name).read_bytes() == (published / "out" / name).read_bytes()


def test_the_command_lists_and_checks_what_is_published(published, monkeypatch, capsys):
    monkeypatch.setattr(bench, "_FOLDER", published)
    command(out=published / "out")
    listed = capsys.readouterr().out
    assert all(text in listed for text in ("tiny", "yes", "Two tasks, in short."))
    command(out=published / "out", check=True)
    assert "tiny: run 0 has the published digits" in capsys.readouterr().out
    with pytest.raises(ConfigurationError, match="has no published table to check"):
        command(out=published, check=True)


def test_tables_of_models_that_are_not_built_do_not_stop_the_others(
    published, monkeypatch, capsys, tmp_path
):
    import shutil

    monkeypatch.setattr(bench, "_FOLDER", tmp_path)
    monkeypatch.setattr("moofusion.zoo.folders.cache_folder", lambda name: tmp_path / name)
    monkeypatch.delenv("MOOFUSION_ZOO", raising=False)
    shutil.copy(published / "tiny.toml", tmp_path / "tiny.toml")
    (tmp_path / "far.toml").write_text('algorithms = ["random"]\nproblems = ["lm3"]\nseconds = 1\n')
    for name in ("far", "tiny"):
        shutil.copy(published / "out" / "tiny.csv", tmp_path / f"{name}.csv")
    command(out=tmp_path, check=True)
    shown = capsys.readouterr().out
    assert "far: not checked, lm3 is not built" in shown
    assert "tiny: run 0 has the published digits" in shown
    with pytest.raises(DataError, match="zoo build lm3"):
        command(["far"], out=tmp_path, check=True)
    (tmp_path / "tiny.csv").unlink()
    with pytest.raises(RunError, match="no table could be checked"):
        command(out=tmp_path, check=True)


@pytest.mark.parametrize("row", [0, 3])
def test_one_run_again_has_the_published_digits(published, row):
    assert bench.check_bench("tiny", published / "out", row=row) == {}


def test_a_changed_digit_is_found(published, tmp_path):
    csv = (published / "out" / "tiny.csv").read_text().splitlines()
    fields = csv[1].split(",")
    column = csv[0].split(",").index("reported_test:hypervolume")
    fields[column] = str(float(fields[column]) + 1e-9)
    (tmp_path / "tiny.csv").write_text("\n".join([csv[0], ",".join(fields)]) + "\n")
    found = bench.check_bench("tiny", tmp_path)
    assert list(found) == ["reported_test:hypervolume"]


def test_what_is_not_there_is_said(published, tmp_path):
    with pytest.raises(UnknownNameError, match="benchmark 'tine'; did you mean 'tiny'"):
        bench.bench_study("tine", tmp_path / "x.db")
    with pytest.raises(UnknownNameError, match="problem of the study 'twp'; did you mean 'two'"):
        bench.bench_study("tiny", tmp_path / "x.db", only="twp")
    with pytest.raises(RunError, match="cannot be read"):
        bench.check_bench("tiny", tmp_path)
    with pytest.raises(RunError, match="has 4 runs; there is no run 9"):
        bench.check_bench("tiny", published / "out", row=9)
    bench.bench_study("tiny", tmp_path / "open.db")
    with pytest.raises(RunError, match="4 of 4 runs"):
        bench.publish_bench("tiny", tmp_path / "open.db", tmp_path)
