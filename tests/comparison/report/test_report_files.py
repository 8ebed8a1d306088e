"""The report as a folder: which files, that they say something, that nothing else is touched."""

import hashlib
import json
import re
import shutil
import sqlite3
import xml.etree.ElementTree as ET

import fake_study as fake
import numpy as np
import pytest
import tiny
from PIL import Image
from test_report_table import check_latex

from moofusion.comparison import Store, Study, StudyData, choose, pooled_result
from moofusion.comparison.front import Front
from moofusion.comparison.report import write_report
from moofusion.comparison.report.across import families
from moofusion.comparison.report.figures import draw_figures
from moofusion.comparison.report.scores import sections
from moofusion.errors import RunError

SLUGS = ("pair", "triple", "it-s-odd-100")


def hashes(folder):
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_the_same_study_gives_the_same_bytes(report, tmp_path):
    again = write_report(report.study, tmp_path / "again")
    assert again == tmp_path / "again" / "report.html"
    assert hashes(report.out) == hashes(again.parent)


def test_contents_lists_what_is_there_and_what_was_timed(report):
    contents = json.loads((report.out / "contents.json").read_text())
    assert sorted(contents["files"]) == sorted(hashes(report.out))
    assert set(contents["timed"]) == {
        *(f"tables/{slug}-timing.{kind}" for slug in SLUGS for kind in ("md", "csv", "tex")),
        *(f"figures/{slug}-anytime-seconds.{kind}" for slug in SLUGS for kind in ("png", "svg")),
        "report.html",
    }


def test_only_timed_files_depend_on_the_clock(report, tmp_path):
    """Another machine needs other seconds; all other files stay what they are, byte by byte."""
    slower = tmp_path / report.study.name
    shutil.copy(report.study, slower)
    with sqlite3.connect(slower) as db:
        db.execute("UPDATE measurement SET seconds = 3 * seconds + 0.01 * length(x)")
        db.execute("UPDATE evaluation SET elapsed = 3 * elapsed")
        db.execute("UPDATE cell SET optimizer_seconds = 7 + optimizer_seconds")
    db.close()
    write_report(slower, tmp_path / "report")
    timed = set(json.loads((report.out / "contents.json").read_text())["timed"])
    before, after = hashes(report.out), hashes(tmp_path / "report")
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    # Both Markdown and page name the path of the study.
    assert changed == timed | {"report.md"}
    text = (report.out / "report.md").read_text()
    moved = text.replace(str(report.study), str(slower))
    assert moved == (tmp_path / "report" / "report.md").read_text()


def test_every_figure_shows_something_in_both_formats(report):
    pictures = sorted((report.out / "figures").glob("*.png"))
    names = {p.stem for p in pictures}
    per_problem = {"anytime", "anytime-seconds", "coefficients", "front-search"}
    assert names == {
        *(f"{slug}-{kind}" for slug in SLUGS for kind in per_problem),
        *(f"{slug}-{kind}" for slug in SLUGS[:2] for kind in ("front-test", "attainment")),
        "pair-differences",
        "it-s-odd-100-parallel",
    }
    for path in pictures:
        with Image.open(path) as image:
            colors = image.convert("RGB").getcolors(1 << 24)
            pixels = np.asarray(image.convert("RGB"))
            assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert min(pixels.shape[:2]) > 300
        drawn = (pixels != 255).any(axis=2)
        assert drawn.mean() > 0.02, path.name
        assert len(colors) > 50, path.name
        # Something in every quarter: nothing was squeezed into a corner.
        h, w = drawn.shape
        quarters = [drawn[: h // 2], drawn[h // 2 :], drawn[:, : w // 2], drawn[:, w // 2 :]]
        assert all(quarter.any() for quarter in quarters)
        svg = ET.parse(path.with_suffix(".svg")).getroot()
        assert svg.tag.endswith("svg")
        assert len(list(svg.iter())) > 50
        assert "date" not in path.with_suffix(".svg").read_text().lower()


def test_critical_difference_diagram_from_six_problems_on(six, data, tmp_path):
    groups = families(sections(StudyData.read(six)))
    (picture,) = draw_figures([], groups, tmp_path)
    assert picture.name == "all-ranks"
    assert "Friedman" in picture.alt
    with Image.open(tmp_path / "all-ranks.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50
    assert draw_figures([], families(sections(data)), tmp_path) == []


def test_every_latex_table_is_sound(report):
    files = sorted((report.out / "tables").glob("*.tex"))
    assert len(files) == 4 * 3 + 1
    labels = [re.search(r"\\label\{(.*)\}", f.read_text()).group(1) for f in files]
    assert len(set(labels)) == len(files)
    for file in files:
        check_latex(file.read_text())
    assert r"it's \textless{}odd\textgreater{} \& 100 \%" in files[0].read_text()


def test_markdown_shows_all_but_seconds_and_links_what_exists(report):
    text = (report.out / "report.md").read_text()
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    assert all((report.out / target).is_file() for target in targets)
    for table in (report.out / "tables").glob("*.md"):
        title = table.read_text().splitlines()[0].lstrip("# ")
        assert (f"### {title}\n" in text) == ("timing" not in table.name)
    for needle in ("fingerprint " + f"{1:032x}", "seeds: 11, 22, 33", "numpy 2.4.0", "1 thread"):
        assert needle in text
    assert "moofusion report " in text
    assert "no held-out test split" in text


def test_front_csv_is_what_export_chooses_from(report):
    data = StudyData.read(report.study)
    for slug, problem in zip(SLUGS, data.problems.values(), strict=True):
        found = pooled_result(data, problem.title).front
        read = Front.from_csv(report.out / "tables" / f"{slug}-front.csv", found)
        assert np.array_equal(read.X, found.X)
        assert np.array_equal(read.search, found.search)
        assert read.choose() == choose(found.normalized(), names=found.tasks)


def test_runs_csv_has_a_row_for_each_run(report):
    lines = (report.out / "tables" / "runs.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 * 3 * 3


def test_unfinished_runs_are_left_out_and_counted(tmp_path, no_figures):
    path = fake.write_fake_study(tmp_path / "s.db", evaluations=6)
    with Store(path) as store:
        store.add_cell(f"{1:032x}", "random", 99, "evaluations=6")
    out = tmp_path / "report"
    write_report(path, out)
    text = (out / "report.md").read_text()
    assert "9 finished; 1 more did not finish and are left out" in text
    assert "99" not in re.search(r"seeds: (.*)", text).group(1)


def test_nothing_is_reported_before_a_run_has_finished(tmp_path):
    with Store(tmp_path / "s.db") as store:
        fake.add_problem(store, "f", "pair", 2)
        store.add_cell("f", "random", 1, "evaluations=6")
    with pytest.raises(RunError, match="no finished run yet"):
        write_report(tmp_path / "s.db", tmp_path / "report")
    with pytest.raises(RunError, match="there is no store"):
        write_report(tmp_path / "other.db", tmp_path / "report")
    assert sorted(p.name for p in tmp_path.iterdir() if "db" not in p.name) == []


def test_a_users_files_are_never_replaced(tmp_path, no_figures):
    path = fake.write_fake_study(tmp_path / "s.db", evaluations=6)
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    for force in (False, True):
        with pytest.raises(RunError, match="holds other files than a report"):
            write_report(path, out, force=force)
    (out / "thesis.tex").rename(tmp_path / "thesis.tex")
    write_report(path, out)
    (out / "notes.txt").write_text("mine")
    (out / "tables" / "stale.csv").write_text("mine too")
    with pytest.raises(RunError, match="--force replaces it"):
        write_report(path, out)
    (out / "report.md").write_text("old")
    write_report(path, out, force=True)
    assert (out / "report.md").read_text() != "old"
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "tables" / "stale.csv").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_force_takes_away_what_the_new_report_has_not(tmp_path, no_figures):
    out = tmp_path / "out"
    write_report(fake.write_fake_study(tmp_path / "a.db", evaluations=6), out)
    second = fake.write_fake_study(tmp_path / "b.db", problems={"other": 2}, evaluations=6)
    write_report(second, out, force=True)
    assert not list(out.rglob("pair-*"))
    assert list(out.rglob("other-*"))


def test_without_plotly_all_but_the_page_is_written(tmp_path, monkeypatch):
    path = fake.write_fake_study(tmp_path / "s.db", evaluations=6)
    monkeypatch.setattr("moofusion.comparison.report.write.has_plotly", lambda: False)
    with pytest.warns(UserWarning, match=r"pip install 'moofusion\[report\]'"):
        page = write_report(path, tmp_path / "report")
    assert page == tmp_path / "report" / "report.md"
    assert not (tmp_path / "report" / "report.html").exists()
    assert len(list((tmp_path / "report" / "figures").glob("*.png"))) == 7


def test_one_objective_one_algorithm_one_seed(tmp_path):
    pytest.importorskip("plotly", reason="the extra [report] is not installed")
    path = fake.write_fake_study(
        tmp_path / "s.db", problems={"one": 1}, algorithms=("random",), seeds=(1,), evaluations=6
    )
    page = write_report(path, tmp_path / "report")
    assert page.exists()
    assert not list((tmp_path / "report").rglob("*pairwise*"))


def test_a_study_made_twice_from_scratch_gives_the_same_tables(tmp_path, no_figures):
    """Real models, real searches: all but the seconds agree to the last byte."""
    pytest.importorskip("plotly", reason="the extra [report] is not installed")
    found = []
    for name in ("first", "second"):
        problem = tiny.net_problem(experts=("a", "b"))
        store = tmp_path / name / "study.db"
        algorithms = ["nsga2:pop_size=4", "random:batch_size=4", "soup"]
        Study({"net": problem}, algorithms, seeds=2, evaluations=12, store=store).run(threads=1)
        write_report(store, tmp_path / name / "report")
        found.append(hashes(tmp_path / name / "report"))
    contents = json.loads((tmp_path / "first" / "report" / "contents.json").read_text())
    # report.md names the path of the study in its commands.
    apart = {*contents["timed"], "report.md"}
    same = {name for name in found[0] if found[0][name] == found[1][name]}
    assert {"tables/net-algorithms.md", "tables/net-models.tex", "tables/runs.csv"} <= same
    assert found[0].keys() - same <= apart
