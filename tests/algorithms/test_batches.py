"""Seeded batches: every sample once an epoch, another order every epoch, any step at any time."""

import numpy as np
import pytest

from moofusion.algorithms.batches import SeededBatches
from moofusion.errors import ConfigurationError


def test_an_epoch_shows_every_sample_once():
    batches = SeededBatches([12, 20], batch_size=4, seed=0)
    for task, steps in ((0, 3), (1, 5)):
        seen = np.concatenate([batches(step)[task] for step in range(steps)])
        assert sorted(seen) == list(range(12 if task == 0 else 20))


def test_epochs_do_not_repeat_their_batches():
    batches = SeededBatches([64], batch_size=8, seed=0)
    shown = {tuple(batches(step)[0]) for step in range(80)}
    assert len(shown) == 80


def test_steps_can_be_asked_for_in_any_order():
    one, other = (SeededBatches([30, 7], batch_size=5, seed=9) for _ in "ab")
    ahead = [one(step) for step in range(40)]
    for step in reversed(range(40)):
        for a, b in zip(ahead[step], other(step), strict=True):
            assert (a == b).all()


def test_batches_are_never_short_unless_the_task_is():
    batches = SeededBatches([10, 3], batch_size=4, seed=1)
    assert {len(batches(step)[0]) for step in range(20)} == {4}
    assert {len(batches(step)[1]) for step in range(20)} == {3}


def test_tasks_of_one_size_have_orders_of_their_own():
    first, second = SeededBatches([50, 50], batch_size=10, seed=0)(0)
    assert (first != second).any()


def test_ranks_share_one_order():
    whole = SeededBatches([24], batch_size=6, seed=2)
    halves = [SeededBatches([24], batch_size=3, seed=2, rank=r, world=2) for r in range(2)]
    for step in range(8):
        both = np.concatenate([half(step)[0] for half in halves])
        assert len(set(both)) == 6
        assert sorted(both) == whole(step)[0].tolist()


def test_a_batch_needs_a_sample():
    with pytest.raises(ConfigurationError, match="batch_size must be positive, got 0"):
        SeededBatches([4], batch_size=0, seed=0)
