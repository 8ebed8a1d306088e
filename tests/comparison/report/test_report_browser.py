"""The report page in a real browser: what it recommends, shows, and how it behaves."""

import json
import shlex

import fake_study as fake
import numpy as np
import pytest
from PIL import Image
from reader import Page, check, contrast, printed

from moofusion.algorithms.preferences import parse_preference
from moofusion.comparison import StudyData, choose, pooled_result
from moofusion.comparison.report import export_command, write_report

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def page(browser, report):
    return Page(browser, report.page)


@pytest.fixture
def fresh(browser, report):
    return Page(browser, report.page)


def test_a_slider_moved_by_keyboard_recommends_what_python_does(page, data, parts):
    from selenium.webdriver.common.keys import Keys

    before = page.text("#recommended-label")
    slider = page.find("#weight-0")
    for _ in range(30):
        slider.send_keys(Keys.ARROW_RIGHT)
    page.find("#weight-1").send_keys(*[Keys.ARROW_LEFT] * 45)
    front, index, words = check(page, data, parts["pair"], "pair")
    assert words[words.index("--preference") + 1] == "animals=0.8,objects=0.05"
    assert page.text("#recommended-label") != before
    assert page.text(".slider output") == "94 %"
    assert page.find("#weight-0").get_attribute("aria-valuetext") == "94 %"
    ring = page.drawn()[-1]
    assert [ring["x"][0], ring["y"][0]] == pytest.approx(100 * front.values("test")[index])


def test_many_preferences_on_every_problem(fresh, data, parts, report):
    rng = np.random.default_rng(3)
    seen = set()
    for number, (title, section) in enumerate(parts.items()):
        fresh.pick("#problem", number)
        M = len(section.problem.tasks)
        corners = [row for row in (100 * np.eye(M, dtype=int)).tolist()]
        drawn = rng.integers(0, 101, (25, M)).tolist()
        for weights in [*corners, [1] * M, *drawn]:
            fresh.slide(weights)
            *_, words = check(fresh, data, section, title)
            wish = {t: w / 100 for t, w in zip(section.problem.tasks, weights, strict=True) if w}
            text = ",".join(f"{t}={w:g}" for t, w in wish.items())
            command = export_command(report.study, problem=title, preference=text)
            assert words == shlex.split(command)
            assert parse_preference(text, section.problem.tasks) == pytest.approx(
                np.array(weights) / sum(weights)
            )
            seen.add((title, fresh.text("#recommended-label")))
    # Sliders that did nothing would pass with one model per problem.
    assert len(seen) > 15


def test_ties_go_where_python_lets_them_go(page):
    rng = np.random.default_rng(11)
    for trial in range(60):
        M = int(rng.integers(2, 5))
        # Few values, so that sums tie; in every second trial they differ a little instead.
        F = rng.integers(0, 4, (20, M)) / 4 + (trial % 2) * 1e-3 * rng.integers(0, 3, (20, M))
        F = F[np.lexsort(F.T[::-1])]
        weights = (rng.integers(0, 3, M) / 2).tolist()
        if not any(weights):
            continue
        models = [{"F": f.tolist(), "sum": float(f.sum())} for f in F]
        rng.shuffle(models)
        ordered, found = page.js(
            "const models = inOrder(arguments[0]);"
            "return [models.map(m => m.F), choose(models, arguments[1]).F]", models, weights,
        )  # fmt: skip
        assert ordered == F.tolist()
        index = choose(F, weights, names=[f"f{j}" for j in range(M)])
        assert found == F[index].tolist()


def test_hidden_algorithms_are_neither_drawn_nor_recommended(fresh, data, parts):
    names = [trace["name"] for trace in fresh.drawn()]
    assert names[:3] == ["nsga2", "random", "soup"]
    fresh.browser.find_elements("css selector", "#algorithms input")[1].click()
    left = ("nsga2:pop_size=6", "soup")
    for weights in ([90, 10], [50, 50], [15, 85]):
        fresh.slide(weights)
        *_, words = check(fresh, data, parts["pair"], "pair", left)
        given = [words[i + 1] for i, word in enumerate(words) if word == "--algorithm"]
        assert given == list(left)
    assert "random" not in [trace["name"] for trace in fresh.drawn()]
    for box in fresh.browser.find_elements("css selector", "#algorithms input:checked"):
        box.click()
    assert fresh.text("#recommended") == "No model is shown: choose an algorithm."


def test_no_weight_at_all_recommends_nothing_and_says_why(fresh):
    fresh.slide([0, 0])
    assert fresh.text("#recommended") == "Give at least one objective some weight."
    assert fresh.text(".slider output") == "-"
    fresh.find("#equal").click()
    assert "--preference animals=0.5,objects=0.5" in fresh.text("#command")


def test_splits_axes_views_and_costs(fresh, parts):
    section = parts["triple"]
    fresh.pick("#problem", 1)
    front = section.front("random")
    scale = np.array([100, 100, 1])

    def points():
        trace = next(t for t in fresh.drawn() if t["name"] == "random")
        return np.column_stack([trace["x"], trace["y"]])

    assert points() == pytest.approx((front.values("test") * scale)[:, [0, 1]])
    fresh.browser.find_elements("css selector", "#splits input")[0].click()
    assert points() == pytest.approx((front.values("search") * scale)[:, [0, 1]])
    fresh.pick("#y-axis", 2)
    assert points() == pytest.approx((front.values("search") * scale)[:, [0, 2]])
    title = "return document.getElementById('front-chart').layout.yaxis.title.text"
    assert fresh.js(title) == "fashion loss, less is better"
    fresh.pick("#view", "parallel")
    assert not fresh.find("#x-axis").is_displayed()
    lines = fresh.drawn()
    assert lines[-1]["x"] == ["animals", "objects", "fashion", "animals"]
    for cost, last in (("evaluations", 14), ("cost", 14 * 1200), ("seconds", 3.92)):
        fresh.pick("#cost", cost)
        ends = [max(t["x"]) for t in fresh.drawn("progress-chart")]
        assert max(ends) == pytest.approx(last, rel=1e-3)
    final = np.median(section.hypervolumes("random", "search"))
    curve = next(t for t in fresh.drawn("progress-chart") if t["name"] == "random")
    assert curve["y"][-1] == pytest.approx(final, rel=1e-4)


def test_odd_names_are_text_and_missing_test_split_is_said(fresh, parts):
    assert not fresh.find("#held-out").is_displayed()
    fresh.pick("#problem", 2)
    assert fresh.find("#held-out").is_displayed()
    assert len(fresh.browser.find_elements("css selector", "#sliders input")) == 5
    labels = fresh.js(
        "return [...document.querySelectorAll('.slider label')].map(l => l.textContent)"
    )
    assert labels == ["a b", "it's", "c_d", "é", "<i>"]
    assert "<i>" in fresh.find("#recommended").text
    visible = fresh.js("return [...document.querySelectorAll('.problem')].map(n => !n.hidden)")
    assert visible == [False, False, True]
    assert "No held-out test split" in fresh.find(".problem:not([hidden])").text


def test_list_of_models_is_the_accessible_twin_of_the_figure(fresh, parts):
    fresh.find("#models summary").click()
    fresh.wait("return document.querySelectorAll('#models tbody tr').length > 0")
    models = [parts["pair"].front(a) for a in parts["pair"].algorithms]
    rows = fresh.browser.find_elements("css selector", "#models tbody tr")
    assert len(rows) == sum(map(len, models))


def test_nothing_is_fetched_and_nothing_complains(browser, report):
    page = Page(browser, report.page)
    page.slide([10, 90])
    page.pick("#problem", 2)
    page.drawn()
    messages, events = page.logs()
    assert [m["message"] for m in messages if m["level"] in ("SEVERE", "WARNING")] == []
    requests = [
        message["params"]["request"]["url"]
        for message in (json.loads(e["message"])["message"] for e in events)
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert requests
    assert {url.partition(":")[0] for url in requests} <= {"file", "data", "blob"}
    assert len([url for url in requests if url.startswith("file")]) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_on_a_phone_and_in_the_dark(browser, report, scheme, tmp_path):
    page = Page(browser, report.page, scheme=scheme, width=390)
    for problem in range(3):
        page.pick("#problem", problem)
        page.drawn()
        assert page.js("return document.documentElement.scrollWidth") <= 390
    small = page.js(
        "return [...document.querySelectorAll('select, button, #sliders input')].filter(n => "
        "n.offsetParent && n.getBoundingClientRect().height < 24).length"
    )
    assert small == 0
    panel, ink = page.js(
        "const s = getComputedStyle(document.querySelector('.panel'));"
        "return [s.backgroundColor, s.color].map(c => c.match(/\\d+/g).map(Number))"
    )
    bright = {"light": panel, "dark": ink}[scheme]
    assert min(bright[:3]) > 200
    assert contrast(panel[:3], ink[:3]) > 7
    file = tmp_path / "screen.png"
    browser.save_screenshot(str(file))
    with Image.open(file) as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_budgets_stand_in_the_command_where_there_are_several(browser, tmp_path, no_figures):
    path = fake.write_fake_study(tmp_path / "s.db", evaluations=6)
    with fake.Store(path) as store:
        fake.add_runs(store, f"{1:032x}", 2, evaluations=12)
    page = Page(browser, write_report(path, tmp_path / "report"))
    data = StudyData.read(path)
    for number, budget in enumerate(("evaluations=6", "evaluations=12")):
        page.pick("#problem", number)
        for weights in ([80, 20], [30, 70]):
            page.slide(weights)
            _, rows, words = page.recommended()
            assert words[words.index("--budget") + 1] == budget
            front = pooled_result(data, "pair", budget=budget).front
            index = front.choose(words[words.index("--preference") + 1])
            assert [row[1] for row in rows] == printed(front, index, "test")
