"""The page on testing: its example runs, under a pytest of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import moofusion.testing

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def test_the_example_of_the_page_passes_and_fails_when_it_should(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    example, *others = blocks
    (tmp_path / "test_mine.py").write_text(example)
    unseeded = example.replace("self.random_state.random(", "np.random.random(")
    unseeded = unseeded[: unseeded.index("def largest_weight")]
    (tmp_path / "test_broken.py").write_text(unseeded)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PAGE.parents[1])},
        capture_output=True,
        text=True,
    )
    failed = re.findall(r"^FAILED (\S+?)::\S+::(\w+)", done.stdout, re.M)
    assert {file for file, _ in failed} == {"test_broken.py"}, done.stdout
    assert "test_equal_seeds_give_equal_runs" in {name for _, name in failed}
    assert "def test_equal_seeds" in done.stdout  # with the source of the check
    for code in others:
        exec(code, {})


def test_every_contract_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    for name in moofusion.testing.__all__:
        if name.endswith("Contract"):
            assert f"| `{name}` |" in text
