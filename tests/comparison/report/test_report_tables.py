"""What stands in the tables, against slow and direct computation from the fake measurements."""

import csv
from dataclasses import replace
from itertools import combinations

import fake_study as fake
import numpy as np
import pytest
from scipy import stats

from moofusion.comparison import StudyData
from moofusion.comparison.bench import publish_bench
from moofusion.comparison.report import tables
from moofusion.comparison.report.across import across_tables, families
from moofusion.comparison.report.render import to_csv, to_markdown
from moofusion.comparison.report.scores import sections, short_names
from moofusion.comparison.report.tables import (
    algorithms_table,
    models_table,
    pairwise_table,
    problem_tables,
    problems_table,
    timing_table,
)
from moofusion.comparison.thinning import thin

EVALUATIONS, FAILED, INFEASIBLE = 14, 3, 5
NAMES = {"nsga2": "nsga2:pop_size=6", "random": "random", "soup": "soup"}


def read(table):
    rows = list(csv.DictReader(to_csv(table).splitlines()))
    return {next(iter(row.values())): row for row in rows}


def normalized(L, split):
    """Normalized objectives on the pair, from first principles."""
    rows = fake.metrics_of(np.vstack([np.zeros(2), np.eye(2)]), split)
    errors = 1 - rows
    low, high = errors.min(0), errors.max(0)
    return (1 - fake.metrics_of(L, split) - low) / (high - low)


def nondominated(F):
    keep = []
    for i, f in enumerate(F):
        worse = any((g <= f).all() and (g < f).any() for g in F)
        twice = any((g == f).all() for g in F[:i])
        if not worse and not twice:
            keep.append(i)
    return np.array(keep)


def area(F, reference=1.1):
    """Hypervolume in two objectives by a sweep."""
    total, height = 0.0, reference
    for x, y in sorted(map(tuple, F)):
        if x < reference and y < height:
            total += (reference - x) * (height - y)
            height = y
    return total


def fronts(name):
    """For every seed: decision vectors of the front found on search."""
    found = []
    for seed in fake.SEEDS:
        X = fake.candidates(NAMES[name], seed, 2, EVALUATIONS)
        usable = np.setdiff1d(np.arange(len(X)), [FAILED, INFEASIBLE])
        found.append(X[usable[nondominated(normalized(X[usable], "search"))]])
    return found


@pytest.fixture(scope="module")
def pair(parts):
    return parts["pair"]


@pytest.mark.parametrize("name", NAMES)
def test_hypervolumes_are_those_of_a_sweep(pair, name):
    row = read(algorithms_table(pair))[name]
    values = {s: [area(normalized(X, s)) for X in fronts(name)] for s in ("search", "test")}
    for split, expected in values.items():
        assert float(row[f"hv_{split}"]) == pytest.approx(np.mean(expected))
        assert float(row[f"hv_{split}_sd"]) == pytest.approx(np.std(expected, ddof=1))
        # Of three values the interquartile mean leaves none out.
        assert float(row[f"hv_{split}_iqm"]) == pytest.approx(np.mean(expected))
        assert float(row[f"hv_{split}_iqm_low"]) <= np.mean(expected) + 1e-12
        assert float(row[f"hv_{split}_iqm_high"]) >= np.mean(expected) - 1e-12
    gap = np.subtract(values["search"], values["test"])
    assert float(row["gap"]) == pytest.approx(gap.mean())
    assert float(row["hv_archive"]) == pytest.approx(np.mean(values["search"]))
    assert int(row["seeds"]) == 3


@pytest.mark.parametrize("name", NAMES)
def test_indicators_are_taken_against_the_pooled_test_front(pair, name):
    union = np.vstack([normalized(X, "test") for n in NAMES for X in fronts(n)])
    pooled = union[nondominated(union)]
    epsilon, igd, relative, extent = [], [], [], []
    for X in fronts(name):
        F = normalized(X, "test")
        shift = F[:, None] - pooled[None]
        epsilon.append(shift.max(2).min(0).max())
        igd.append(np.sqrt((np.maximum(shift, 0) ** 2).sum(2)).min(0).mean())
        relative.append(area(F) / area(pooled))
        extent.append(np.ptp(F[nondominated(F)], axis=0))
    row = read(algorithms_table(pair))[name]
    assert float(row["epsilon"]) == pytest.approx(np.mean(epsilon))
    assert float(row["igd_plus"]) == pytest.approx(np.mean(igd))
    assert float(row["relative_hv"]) == pytest.approx(np.mean(relative))
    both = [float(row["extent:animals"]), float(row["extent:objects"])]
    assert both == pytest.approx(np.mean(extent, axis=0))
    points = [len(X) for X in fronts(name)]
    assert float(row["points_archive"]) == pytest.approx(np.mean(points))
    assert f"pooled front: {len(pooled)} (pair)" in " ".join(algorithms_table(pair).notes)


def test_one_algorithm_on_several_problems_is_one_table(six):
    whole = sections(StudyData.read(six))
    alone = [replace(section, runs=tuple(section.of("random"))) for section in whole]
    table = problems_table(alone)
    rows = read(table)
    for section in alone:
        expected = read(algorithms_table(section))["random"]
        del expected["algorithm"]
        assert rows[section.title] == {"problem": section.title} | expected
        assert f"{len(section.pooled['test'])} ({section.title})" in table.notes[-1]
    assert len(set(table.notes)) == len(table.notes)
    assert problems_table(whole) is None
    assert problems_table(alone[:1]) is None


def test_a_published_page_says_a_note_once(six, tmp_path):
    page, _ = publish_bench("pairs", six, tmp_path)
    lines = page.read_text().splitlines()
    notes = [line for line in lines if len(line) > 60 and line[0] not in "|-#"]
    assert sum("reference point" in note for note in notes) == 1
    assert len(set(notes)) == len(notes)


def test_a_candidate_met_before_costs_nothing(pair):
    rows = read(algorithms_table(pair))
    full = 2 * 400
    assert float(rows["nsga2"]["cost"]) == full * (EVALUATIONS - 1)
    assert float(rows["random"]["cost"]) == full * EVALUATIONS
    assert float(rows["soup"]["evaluations"]) == EVALUATIONS * 2 // 3


def test_final_set_is_what_the_algorithm_returned(pair):
    values, points = [], []
    for seed in fake.SEEDS:
        X = fake.candidates("random", seed, 2, EVALUATIONS)
        F = normalized(X[np.setdiff1d(np.arange(len(X)), [FAILED, INFEASIBLE])[-6:]], "search")
        values.append(area(F))
        points.append(len(nondominated(F)))
    row = read(algorithms_table(pair))["random"]
    assert float(row["hv_final"]) == pytest.approx(np.mean(values))
    assert float(row["points_final"]) == pytest.approx(np.mean(points))


def test_controls_stand_with_their_own_hypervolume(pair):
    rows = read(models_table(pair))
    assert list(rows) == [
        "base", "animals (expert)", "objects (expert)", "average", "task arithmetic 0.3",
        "task arithmetic 0.4 (best scale)", "TIES 0.3",
    ]  # fmt: skip
    for name, L in {"base": [0, 0], "average": [0.5, 0.5], "objects (expert)": [0, 1]}.items():
        for split in ("search", "test"):
            point = normalized(np.array([L], float), split)
            assert float(rows[name][f"hv_{split}"]) == pytest.approx(area(point))
            measured = fake.metrics_of(np.array([L], float), split)[0]
            assert float(rows[name][f"animals:{split}"]) == measured[0]
            assert float(rows[name][f"objects:{split}"]) == measured[1]


def test_pairwise_tests_are_scipys_with_holm(pair):
    values = {n: [area(normalized(X, "test")) for X in fronts(n)] for n in NAMES}
    raw = {(a, b): stats.wilcoxon(values[a], values[b]).pvalue for a, b in combinations(NAMES, 2)}
    order = sorted(raw, key=raw.get)
    corrected, worst = {}, 0.0
    for k, key in enumerate(order):
        worst = max(worst, raw[key] * (3 - k))
        corrected[key] = min(worst, 1.0)
    table = pairwise_table(pair)
    for row in csv.DictReader(to_csv(table).splitlines()):
        key = (row["first"], row["second"])
        assert float(row["p"]) == pytest.approx(raw[key])
        assert float(row["p_holm"]) == pytest.approx(corrected[key])
        wins = np.subtract.outer(values[key[0]], values[key[1]])
        assert float(row["a12"]) == pytest.approx((wins > 0).mean() + 0.5 * (wins == 0).mean())
        assert row["verdict"] == "no difference shown"
    text = to_markdown(table)
    assert "family of 3" in text
    assert "Holm" in text
    assert "fewer than 7 runs" in text


def test_many_algorithms_are_compared_with_random_search_alone(pair, monkeypatch):
    monkeypatch.setattr(tables, "_MOST_IN_PAIRS", 2)
    table = pairwise_table(pair)
    assert table.title.endswith("algorithms against random")
    rows = list(csv.DictReader(to_csv(table).splitlines()))
    assert [(row["first"], row["second"]) for row in rows] == [
        ("nsga2", "random"), ("soup", "random"),
    ]  # fmt: skip
    assert "p (Holm, family of 2)" in to_markdown(table)
    assert "Of the 3 pairs of 3 algorithms" in to_markdown(table)


@pytest.mark.parametrize(
    ("seeds", "family"),
    [(6, 6), (7, 3), (8, 6)],  # p of 1/32 is too large for three, of 1/64 for six
)
def test_a_control_is_taken_where_all_pairs_could_show_nothing(tmp_path, seeds, family):
    study = fake.write_fake_study(
        tmp_path / "study.db",
        evaluations=8,
        algorithms=("nsga2", "random", "soup", "map"),
        seeds=range(1, seeds + 1),
    )
    (section,) = sections(StudyData.read(study))
    assert f"p (Holm, family of {family})" in to_markdown(pairwise_table(section))


def test_seconds_stand_apart(pair):
    rows = read(timing_table(pair))
    spent = [0.25 + 0.01 * (i % 7) for i in range(EVALUATIONS)]
    assert float(rows["random"]["device_seconds"]) == pytest.approx(sum(spent))
    # The last candidate of nsga2 is its first again.
    assert float(rows["nsga2"]["device_seconds"]) == pytest.approx(sum(spent[:-1]))
    assert float(rows["random"]["wall_seconds"]) == pytest.approx(0.3 * EVALUATIONS)
    optimizer = [0.5 + 0.01 * seed for seed in fake.SEEDS]
    assert float(rows["soup"]["optimizer_seconds"]) == pytest.approx(np.mean(optimizer))
    for table in problem_tables(pair):
        assert ("seconds" in to_csv(table).splitlines()[0]) == table.timed


def test_every_table_of_values_says_how_it_was_scaled(parts):
    for title, section in parts.items():
        for table in (algorithms_table(section), models_table(section)):
            text = " ".join(table.notes)
            assert "f_j = (o_j - best anchor_j) / (worst anchor_j - best anchor_j)" in text
            assert f"reference point ({', '.join(['1.1'] * len(section.problem.tasks))})" in text
            assert "exact (moocore)" in text
            missing = "No held-out test split" in text
            assert missing == (not section.problem.held_out), title


def test_missing_controls_are_named(six, tmp_path):
    (first, *_) = sections(StudyData.read(six))
    assert "did not run" not in " ".join(algorithms_table(first).notes)
    path = fake.write_fake_study(tmp_path / "s.db", algorithms=("soup", "nsga2"), evaluations=6)
    (alone,) = sections(StudyData.read(path))
    notes = " ".join(algorithms_table(alone).notes)
    assert "Controls that this study did not run: random search." in notes


def test_without_test_split_there_are_no_columns_of_it(parts):
    section = next(s for s in parts.values() if not s.problem.held_out)
    keys = list(read(algorithms_table(section))["nsga2"])
    assert not [key for key in keys if "test" in key or key == "gap"]
    assert not [key for key in next(iter(read(models_table(section)).values())) if "test" in key]


def test_a_loss_is_better_when_it_is_less(parts):
    table = models_table(parts["triple"])
    column = next(c for c in table.columns if c.key == "fashion:test")
    assert column.better == "min"
    rows = read(table)
    assert float(rows["fashion (expert)"]["fashion:test"]) < float(rows["base"]["fashion:test"])


def test_six_problems_are_ranked_and_tested(six):
    found = sections(StudyData.read(six))
    (family,) = families(found)
    overview, ranks, pairs = across_tables(family)
    assert [row[0] for row in overview.rows] == [f"p{i}" for i in range(6)]
    medians = np.array([[np.median(s.hypervolumes(a)) for a in NAMES.values()] for s in found])
    expected = stats.rankdata(-medians, axis=1).mean(axis=0)
    assert dict(ranks.rows) == pytest.approx(dict(zip(NAMES, expected, strict=True)))
    chi, p = stats.friedmanchisquare(*medians.T)
    assert f"Friedman chi-square {chi:.3g}, p = {p:.3g}" in ranks.notes[0]
    for row in pairs.rows:
        a, b = (list(NAMES).index(row[i]) for i in (0, 1))
        assert row[4] == pytest.approx(stats.wilcoxon(medians[:, a], medians[:, b]).pvalue)
    best = {i: row.index(max(row)) + 1 for i, row in enumerate(medians.tolist())}
    assert {(i, j) for i, j in best.items()} <= overview.marked()


def test_fewer_problems_are_not_tested_together(data):
    (family,) = families(sections(data))
    (overview,) = across_tables(family)
    text = to_markdown(overview)
    assert "Friedman" not in text
    assert "Fewer than 6 problems" in text


def test_two_budgets_of_a_problem_are_two_sections(tmp_path):
    path = fake.write_fake_study(tmp_path / "s.db", evaluations=6)
    with fake.Store(path) as store:
        fake.add_runs(store, f"{1:032x}", 2, evaluations=12)
    found = sections(StudyData.read(path))
    assert [s.title for s in found] == ["pair, evaluations=6", "pair, evaluations=12"]
    assert [s.slug for s in found] == ["pair-evaluations-6", "pair-evaluations-12"]
    lengths = [{len(run.X) for run in s.of("random")} for s in found]
    assert lengths == [{6}, {12}]


def test_what_others_measured_on_test_does_not_lengthen_the_front_of_a_run(tmp_path):
    # Every evaluation of the made-up runs is measured on test.
    path = fake.write_fake_study(tmp_path / "s.db", evaluations=EVALUATIONS, front_size=3)
    runs = StudyData.read(path).runs
    assert any(len(run.front) > 3 for run in runs)
    for run in runs:
        assert set(run.test) >= set(run.front)
        assert run.reported.tolist() == run.front[thin(run.normalized[run.front], 3)].tolist()


def test_a_run_that_found_nothing_is_not_averaged_away(tmp_path):
    path = tmp_path / "s.db"
    with fake.Store(path) as store:
        fake.add_problem(store, "f", "pair", 2)
        fake.add_runs(store, "f", 2, algorithms=("random",), evaluations=6)
        store.add_cell("f", "broken", 11, "evaluations=6")
        cell = next(c for c in store.cells() if c.algorithm == "broken")
        store.start(cell.id, fake.MACHINE, front_size=50)
        for i in range(2):
            store.add_evaluation(
                cell.id, "f", i + 1, np.full(2, 9.0 + i), failed=True, feasible=True,
                metrics=[np.nan] * 2, cost=1.0, paid=1.0, gradient=(0.0, 0.0), full_cost=1.0,
                seconds=0.1, elapsed=0.1,
            )  # fmt: skip
        store.finish(cell.id, np.empty((0, 2)), 0.0)
    (section,) = sections(StudyData.read(path))
    row = read(algorithms_table(section))["broken"]
    assert float(row["hv_test"]) == 0.0
    assert (row["igd_plus"], row["epsilon"], row["points_archive"]) == ("", "", "0.0")


def test_names_are_short_where_that_is_clear():
    names = short_names(["nsga2:pop_size=6", "soup:scale=1", "soup", "random"])
    assert list(names.values()) == ["nsga2", "soup:scale=1", "soup", "random"]
