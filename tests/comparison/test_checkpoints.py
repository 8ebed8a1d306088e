"""Fine-tuned models as points beside a front of merges."""

import numpy as np
import pytest
import tiny

from moofusion.baselines import train_rays
from moofusion.comparison import checkpoint_points, hypervolume
from moofusion.errors import ConfigurationError


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
