"""The contract of search spaces."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError
from moofusion.merging import Space

__all__ = ["SpaceContract"]

Array = NDArray[np.float64]


class SpaceContract:
    """What problems and algorithms rely on in a space.

    A subclass gives the fixture `space`.

    Attributes:
        invertible: Whether ``coefficients(decision(L))`` gives back L that the space can reach.
        differentiable: Whether there is a `pullback`; if not, it must say so.

    Example:
        >>> from moofusion.merging import make_space
        >>> from moofusion.weights import ParameterLayout
        >>> class TestMySpace(SpaceContract):
        ...     @pytest.fixture
        ...     def space(self):
        ...         layout = ParameterLayout({"h.0.w": (2,), "h.1.w": (2,)})
        ...         return make_space("block-wise", layout, ["a", "b"])
    """

    invertible: bool = True
    differentiable: bool = True

    def test_variables_have_names_and_bounds(self, space: Space) -> None:
        """One name and one finite interval for each variable."""
        assert space.n_var > 0
        assert len(space.names) == len(set(space.names)) == space.n_var
        assert space.xl.shape == space.xu.shape == (space.n_var,)
        assert np.isfinite([space.xl, space.xu]).all()
        assert (space.xl < space.xu).all()

    def test_static_coefficients_are_one_per_expert(self, space: Space) -> None:
        """The part that no group covers is merged as well."""
        assert space.static.shape == (space.n_experts,)
        assert np.isfinite(space.static).all()

    def test_shapes(self, space: Space) -> None:
        """``(P, n_var)`` to ``(P, G, K)`` and back; a single vector counts as one row."""
        X = _samples(space)
        L = space.coefficients(X)
        assert L.shape == (len(X), space.n_groups, space.n_experts)
        assert space.n_groups == space.partition.n_groups
        assert space.coefficients(X[0]).shape == (1, space.n_groups, space.n_experts)
        assert space.decision(L).shape == X.shape
        assert len(space.parameters(X)) == len(X)
        assert 0 < space.n_coefficients <= space.n_var

    def test_canonical_decisions_stand_for_the_same_models(self, space: Space) -> None:
        """What caches compare: the same merge, within the bounds, and canonical itself."""
        X = _samples(space)
        found = space.canonical(X)
        assert (space.coefficients(found) == space.coefficients(X)).all()
        assert space.parameters(found) == space.parameters(X)
        assert (space.canonical(found) == found).all()
        assert ((space.xl <= found) & (found <= space.xu)).all()

    def test_scattering_changes_parameters_alone(self, space: Space) -> None:
        """Coefficients stay, and the draws are within the bounds."""
        X = _samples(space)
        given = X.copy()
        found = space.scattered(X, np.random.default_rng(4))
        assert (X == given).all()
        assert (space.coefficients(found) == space.coefficients(X)).all()
        assert ((space.xl <= found) & (found <= space.xu)).all()

    def test_coefficients_are_finite_in_every_corner(self, space: Space) -> None:
        """Also at the bounds, where a division may meet a zero."""
        corners = np.vstack([space.xl, space.xu, _corners(space)])
        assert np.isfinite(space.coefficients(corners)).all()

    def test_rows_are_independent(self, space: Space) -> None:
        """A candidate does not depend on those evaluated beside it."""
        X = _samples(space)
        alone = np.concatenate([space.coefficients(x) for x in X])
        np.testing.assert_allclose(space.coefficients(X), alone, rtol=0, atol=1e-12)

    def test_arguments_stay_as_they_are(self, space: Space) -> None:
        """Neither decision vectors nor coefficients are changed in place."""
        X = _samples(space)
        given = X.copy()
        L = space.coefficients(X)
        assert (X == given).all()
        kept = L.copy()
        space.decision(L)
        assert (L == kept).all()

    def test_decisions_have_the_coefficients_they_were_made_from(self, space: Space) -> None:
        """`decision` inverts `coefficients`, as far as the space is said to be invertible."""
        if not self.invertible:
            pytest.skip("the space is not invertible")
        L = space.coefficients(_samples(space))
        np.testing.assert_allclose(space.coefficients(space.decision(L)), L, rtol=0, atol=1e-8)

    def test_decisions_lie_within_the_bounds(self, space: Space) -> None:
        """Also for coefficients that no decision reaches."""
        L = space.coefficients(_samples(space))
        for given in (L, L + 10, L - 10):
            X = space.decision(given)
            assert (space.xl <= X).all()
            assert (space.xu >= X).all()

    def test_uniform_coefficients_are_the_same_in_every_group(self, space: Space) -> None:
        """`uniform` is how soups and grids write down task-wise merges."""
        rows = space.coefficients(_samples(space)).mean(axis=1)
        X = space.uniform(rows)
        assert (space.xl <= X).all()
        assert (space.xu >= X).all()
        expected = np.repeat(rows[:, None], space.n_groups, axis=1)
        np.testing.assert_allclose(space.coefficients(X), expected, rtol=0, atol=1e-8)

    def test_the_pullback_agrees_with_finite_differences(self, space: Space) -> None:
        """The chain rule, at points away from the bounds; or a clear error where there is none."""
        rng = np.random.default_rng(3)
        weights = rng.normal(size=(space.n_groups, space.n_experts))
        if not self.differentiable:
            with pytest.raises(ConfigurationError, match="gradient"):
                space.pullback(space.xl, weights)
            return

        def value(x: Array) -> float:
            L = space.coefficients(x)[0]
            return float((weights * L + 0.5 * L**2).sum())

        for x in space.xl + (space.xu - space.xl) * (0.1 + 0.8 * rng.random((3, space.n_var))):
            found = space.pullback(x, weights + space.coefficients(x)[0])
            assert found.shape == (space.n_var,)
            for j in rng.choice(space.n_var, min(space.n_var, 8), replace=False):
                move = np.zeros(space.n_var)
                move[j] = 1e-6
                slope = (value(x + move) - value(x - move)) / 2e-6
                assert found[j] == pytest.approx(slope, rel=1e-5, abs=1e-7)

    def test_pickles_are_the_same_space(self, space: Space) -> None:
        """Spaces travel to other processes, and their text is part of a problem's fingerprint."""
        twin = pickle.loads(pickle.dumps(space))
        X = _samples(space)
        assert (twin.coefficients(X) == space.coefficients(X)).all()
        assert repr(twin) == repr(space)


def _samples(space: Space, count: int = 12) -> Array:
    return np.random.default_rng(1).uniform(space.xl, space.xu, (count, space.n_var))


def _corners(space: Space, count: int = 30) -> Array:
    high = np.random.default_rng(2).random((count, space.n_var)) < 0.5
    return np.where(high, space.xu, space.xl)
