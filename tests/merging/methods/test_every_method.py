"""What holds for every merge method, measured inside a problem."""

import numpy as np
import pytest
import tiny
import torch
from deltas import make, random_rows

from moofusion.merging import METHODS, TaskVectorTransform, make_method

METHOD = {
    name: {"method": name} | ({"samples": 20} if name in ("fisher", "regmean") else {})
    for name in METHODS
}
TRANSFORMS = [n for n, m in METHODS.items() if issubclass(m, TaskVectorTransform)]


@pytest.mark.parametrize("name", [*TRANSFORMS, "average"])
@pytest.mark.parametrize("space", ["task-wise", "block-wise"])
def test_jacobians_go_through_the_method(name, space):
    problem = tiny.net_problem(merge=METHOD[name], objective="loss", space=space)
    rng = np.random.default_rng(1)
    x = rng.uniform(0.2, 0.5, problem.n_var)
    _, dF = problem.evaluate(x[None], return_values_of=["F", "dF"])
    step = rng.normal(size=problem.n_var) * 3e-3
    ahead, behind = problem.evaluate(np.array([x + step, x - step]), return_values_of=["F"])
    assert (ahead - behind) / 2 == pytest.approx(dF[0] @ step, rel=0.02, abs=1e-5)


# ------------------------------------------------------------------ transforms on plain arrays


@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_is_given_stays_as_it_is(name):
    given = make(random_rows())
    before = given.deltas.clone()
    after = make_method(name)(given)
    assert torch.equal(given.deltas, before)
    assert after.base is given.base
    assert after.names == given.names
    padding = torch.ones(given.layout.size, dtype=torch.bool)
    for entry in given.layout.entries:
        padding[entry.slice] = False
    assert not after.deltas[:, padding].any()


@pytest.mark.parametrize("name", METHODS)
def test_searched_values_and_written_ones_are_the_same_merge(name):
    row = np.array([0.3, 0.5, 0.4])
    for parameter, values in METHODS[name].searchable.items():
        searched = tiny.net_problem(merge=METHOD[name] | {"search": [parameter]})
        for value in (*values.extremes, values.middle):
            x = np.append(row, values.variable(value))
            (found,) = searched.space.parameters(x)
            fixed = tiny.net_problem(merge=METHOD[name] | {parameter: value})
            weights = searched.evaluator.weights(row[None], parameters=found)
            assert torch.equal(weights, fixed.evaluator.weights(row[None])), (parameter, value)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_one_expert_alone_and_one_that_did_not_change(name):
    rows = random_rows(2)
    rows[1] = 0
    alone = make_method(name)(make(rows[:1])).deltas
    assert torch.isfinite(alone).all()
    pair = make_method(name)(make(rows)).deltas
    assert torch.isfinite(pair).all()
    assert not pair[1].any()
    assert not make_method(name)(make(torch.zeros_like(rows))).deltas.any()
