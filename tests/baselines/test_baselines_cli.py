"""``moofusion baselines train``."""

import pytest
from runs import cli, write_problem

from moofusion.baselines import TrainedRays


@pytest.fixture
def toy(tmp_path, vit_folders, images):
    return write_problem(tmp_path, vit_folders, images)


def test_the_command_trains_and_goes_on(toy, tmp_path):
    options = ("--rays", 2, "--steps", 2, "--method", "epo", "--batch-size", 8, "--lr", "1e-4")
    first = cli("baselines", "train", toy, "--out", tmp_path / "out", *options)
    assert first.code == 0, first.err
    assert "2 checkpoints" in first.out
    assert "192 cost units" in first.out  # 2 rays x 2 steps x 2 tasks x 8 samples x 3
    assert len(TrainedRays.load(tmp_path / "out").rays) == 2
    again = cli("baselines", "train", toy, "--out", tmp_path / "out", *options)
    assert again.out == first.out
    other = cli("baselines", "train", toy, "--out", tmp_path / "out", *options, "--seed", 3)
    assert other.code == 2
    assert "another training (seed is 0, not 3)" in " ".join(other.err.split())


@pytest.mark.parametrize("command", [("baselines",), ("baselines", "train")])
def test_the_commands_explain_themselves(command):
    found = cli(*command, "--help")
    assert found.code == 0
    assert "Usage: moofusion baselines" in found.out
