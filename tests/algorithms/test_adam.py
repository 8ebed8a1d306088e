"""Adam against torch's."""

import numpy as np
import pytest
import torch

from moofusion.algorithms.adam import Adam, cosine
from moofusion.errors import ConfigurationError


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.5])
def test_steps_agree_with_torch(decay, rng):
    steps, lr = 50, 0.03
    x = rng.normal(size=7)
    parameter = torch.nn.Parameter(torch.tensor(x))
    theirs = (
        torch.optim.AdamW([parameter], lr=lr, weight_decay=decay)
        if decay
        else torch.optim.Adam([parameter], lr=lr)
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, steps, eta_min=0.1 * lr)
    mine = Adam(lr=lr, weight_decay=decay)
    for step in range(steps):
        gradient = rng.normal(size=7)
        x = mine.step(x, gradient, factor=cosine(step, steps))
        parameter.grad = torch.tensor(gradient)
        theirs.step()
        schedule.step()
    assert x == pytest.approx(parameter.detach().numpy(), rel=1e-10)


@pytest.mark.parametrize("lr", [0, -1, np.nan, np.inf])
def test_learning_rates_that_make_no_sense(lr):
    with pytest.raises(ConfigurationError, match="lr must be positive"):
        Adam(lr=lr)


@pytest.mark.parametrize("decay", [-0.1, np.nan, np.inf])
def test_decays_that_make_no_sense(decay):
    with pytest.raises(ConfigurationError, match="weight_decay must be 0 or more"):
        Adam(lr=1.0, weight_decay=decay)
