"""Made-up studies and their reports, written once."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import pytest
from fake_study import write_fake_study

from moofusion.comparison import StudyData
from moofusion.comparison.report import write_report
from moofusion.comparison.report.scores import sections

ODD = "it's <odd> & 100 %"


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """Two, three (one of them a loss) and five objectives (without test split). Read only."""
    return write_fake_study(
        tmp_path_factory.mktemp("fake") / "study.db",
        problems={
            "pair": 2,
            "triple": {"M": 3, "loss": (2,)},
            ODD: {"M": 5, "held_out": False, "tasks": ("a b", "it's", "c_d", "é", "<i>")},
        },
        evaluations=14,
    )


@pytest.fixture(scope="session")
def data(study):
    return StudyData.read(study)


@pytest.fixture(scope="session")
def parts(data):
    """Sections of the report by title."""
    return {section.title: section for section in sections(data)}


@pytest.fixture(scope="session")
def report(study, tmp_path_factory):
    """The written report. Read only."""
    pytest.importorskip("plotly", reason="the extra [report] is not installed")
    out = tmp_path_factory.mktemp("reports") / "report"
    return SimpleNamespace(page=write_report(study, out), out=out, study=study)


@pytest.fixture(scope="session")
def six(tmp_path_factory):
    """A study of six small problems, enough for tests over problems."""
    return write_fake_study(
        tmp_path_factory.mktemp("six") / "six.db",
        problems={f"p{i}": {"M": 2, "variant": i} for i in range(6)},
        evaluations=6,
    )


@pytest.fixture
def no_figures(monkeypatch):
    """Figures take most of the time of a report, and many tests look at none."""
    monkeypatch.setattr("moofusion.comparison.report.write.draw_figures", lambda *args: [])


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        # The project's own gate installs a browser, and must not pass without these tests.
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("chromium and chromedriver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1280,1400",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    yield window
    window.quit()
