"""The contract of merge methods, for every method of the package."""

import pytest

from moofusion.merging import METHODS, make_method
from moofusion.testing import MergeMethodContract

# Fewer training samples than by default: there are 60.
OPTIONS = {name: {"samples": 20} if name in ("fisher", "regmean") else {} for name in METHODS}
EXACT = [
    {"method": "linear"},
    {"method": "average"},
    {"method": "dare", "density": 1.0},
    {"method": "breadcrumbs", "density": 1.0, "gamma": 0.0},
    {"method": "low-rank", "rank": 1.0},
    {"method": "slerp"},
    {"method": "slerp", "of": "task-vectors"},
    {"method": "slerp", "norms": "own"},
    {"method": "fisher", "samples": 20},
    {"method": "regmean", "samples": 20},
]
PROMISED = [table["method"] for table in EXACT if len(table.keys() - {"samples"}) == 1]
OTHERS = [{"method": name} | OPTIONS[name] for name in METHODS if name not in PROMISED]


class TestMethods(MergeMethodContract):
    @pytest.fixture(params=OTHERS, ids=lambda table: table["method"])
    def method(self, request):
        return make_method(request.param)


class TestMethodsThatKeepExperts(MergeMethodContract):
    one_hot_is_expert = True

    @pytest.fixture(params=EXACT, ids=lambda t: "-".join(map(str, t.values())))
    def method(self, request):
        return make_method(request.param)


def test_every_method_is_covered_here():
    assert {table["method"] for table in (*OTHERS, *EXACT)} == set(METHODS)
