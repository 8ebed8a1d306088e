"""Which router serves which group of a space: one for every block and role of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.merging.spaces import GroupWise
from moofusion.weights.layout import ROLES

__all__ = ["ROUTED", "Routing", "route"]

#: What can be routed, and the roles of the tensors in it; None for every role.
ROUTED: dict[str, frozenset[str] | None] = {
    "mlp": frozenset({"mlp"}),
    "mlp+attention": frozenset({"mlp", "attention"}),
    "all": None,
}


@dataclass(frozen=True)
class Routing:
    """Routers and the groups they serve.

    Attributes:
        names: Names of the R routers, ``"BLOCK:ROLE"``.
        rows: Router of each of the G groups, -1 where it is held at the static coefficients.
    """

    names: tuple[str, ...]
    rows: NDArray[np.int64]


def route(problem: Any, routed: str) -> Routing:
    """Assign routers to the groups of a problem's space.

    Groups of one block and one role share a router: all MLP modules of a transformer block take
    the same row, whether the space is block-wise, module-wise or tensor-wise. With ``"all"``
    groups may mix roles and blocks; groups of equal blocks and roles share a router.

    Args:
        problem: A MergeProblem.
        routed: A key of :data:`ROUTED`.

    Raises:
        UnknownNameError: An unknown `routed`.
        ConfigurationError: The space has not one row per group, is too coarse, or has nothing to
            route.
    """
    if routed not in ROUTED:
        raise UnknownNameError("routed part", routed, ROUTED)
    space = problem.space
    if not isinstance(space, GroupWise):
        raise ConfigurationError(
            f"PWEMoE needs a space with one coefficient per group and expert, but this one is "
            f"{space!r}; use block-wise (with select={routed!r}), module-wise or tensor-wise"
        )
    blocks: list[dict[str, None]] = [{} for _ in range(space.n_groups)]
    roles: list[set[str]] = [set() for _ in range(space.n_groups)]
    layout = problem.evaluator.pool.layout
    for entry, group in zip(layout.entries, space.partition.groups, strict=True):
        if group >= 0:
            blocks[group][entry.block] = None
            roles[group].add(entry.role)
    wanted = ROUTED[routed]
    keys: dict[tuple[str, str], int] = {}
    rows = np.full(space.n_groups, -1, dtype=np.int64)
    for group in range(space.n_groups):
        if wanted is not None:
            if not roles[group] & wanted:
                continue
            if len(roles[group]) > 1 or len(blocks[group]) > 1:
                raise ConfigurationError(_too_coarse(space, group, routed, roles[group]))
        # More than two blocks only occur where one group is the whole model.
        places = list(blocks[group])
        place = places[0] if len(places) == 1 else f"{places[0]}..{places[-1]}"
        key = (place, "+".join(role for role in ROLES if role in roles[group]))
        rows[group] = keys.setdefault(key, len(keys))
    if not keys:
        raise ConfigurationError(
            f"no group of the space {space!r} is a part to route ({routed}); select it "
            f"(space.select = {routed!r}), or route another part"
        )
    return Routing(tuple(f"{block}:{role}" for block, role in keys), rows)


def _too_coarse(space: GroupWise, group: int, routed: str, roles: set[str]) -> str:
    mixed = [role for role in ROLES if role in roles]
    return (
        f"PWEMoE with routed={routed!r} gives every block a router for each of these parts, but "
        f"group {space.partition.names[group]!r} of the space is too coarse: it holds "
        f"{', '.join(mixed)} of one or several blocks; use the space block-wise with "
        "select='mlp', module-wise or tensor-wise, or routed='all'"
    )
