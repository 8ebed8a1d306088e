"""The contract of runners, for the joblib backends that need no cluster."""

import pytest

from moofusion.testing import RunnerContract


class TestBackends(RunnerContract):
    @pytest.fixture(params=["loky", "threading"])
    def runner(self, request):
        return lambda study: study.run(n_jobs=2, backend=request.param, threads=1)
