"""Recipes from and for mergekit: its YAML files, where both libraries mean the same merge.

mergekit (github.com/arcee-ai/mergekit, 0.1.5) multiplies task vectors by ``weight``, and divides by
the sum of the weights where ``normalize`` is on. What has no exact counterpart here is refused with
the reason. Two merges agree on average and not number by number: DARE draws other masks and scales
by 1 / density as the paper has it, mergekit by what restores the L1 norm. Its slerp is ours with
``norms = "own"``. Model Stock agrees where the experts' mean cosine is not negative. DELLA is
refused: there mergekit scales whole tensors, the paper single entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from moofusion.errors import ConfigurationError, UnknownNameError, key_message
from moofusion.merging.methods.base import shares
from moofusion.merging.recipe import Group, MergeRecipe

__all__ = ["from_mergekit", "read_mergekit", "to_mergekit"]

# mergekit's name -> (ours, further parameters of ours, normalize by default, averages what agrees)
_TASK_VECTORS: dict[str, tuple[str, dict[str, Any], bool, bool]] = {
    "task_arithmetic": ("linear", {}, False, False),
    "ties": ("ties", {"scope": "tensor"}, True, True),
    "dare_linear": ("dare", {"elect": False}, False, False),
    "dare_ties": ("dare", {"elect": True}, False, True),
    "breadcrumbs": ("breadcrumbs", {"elect": False}, False, False),
    "breadcrumbs_ties": ("breadcrumbs", {"elect": True}, False, True),
}
_OTHERS = ("linear", "slerp", "karcher", "model_stock")
_DENSITY, _GAMMA = 1.0, 0.01  # its defaults


def read_mergekit(path: str | Path) -> MergeRecipe:
    """The recipe that a mergekit YAML file describes; paths stay relative to the file.

    Raises:
        ConfigurationError: The file cannot be read, or asks for what has no counterpart here.
    """
    path = Path(path)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"mergekit file {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"mergekit file {path} holds no table")
    try:
        recipe = from_mergekit(found)
    except ConfigurationError as error:
        raise ConfigurationError(f"mergekit file {path}: {error}") from error
    return recipe.model_copy(update={"folder": str(path.resolve().parent)})


def from_mergekit(config: Mapping[str, Any]) -> MergeRecipe:
    """The recipe that a mergekit configuration describes.

    Args:
        config: The YAML file as a table.

    Raises:
        ConfigurationError: It asks for what has no counterpart here.

    Example:
        >>> recipe = from_mergekit({
        ...     "merge_method": "ties", "base_model": "b", "parameters": {"normalize": True},
        ...     "models": [{"model": m, "parameters": {"weight": 1.0, "density": 0.2}}
        ...                for m in ("x", "y")]})
        >>> recipe.merge
        {'method': 'ties', 'scope': 'tensor', 'density': 0.2}
    """
    try:
        return _recipe(config)
    except ValidationError as error:
        said = "; ".join(key_message(item) for item in error.errors())
        raise ConfigurationError(f"the mergekit configuration is not usable: {said}") from error


def _recipe(config: Mapping[str, Any]) -> MergeRecipe:
    name = str(config.get("merge_method"))
    if name.startswith("della"):
        raise ConfigurationError(
            "mergekit's della scales whole tensors back to their L1 norm, the paper and moofusion "
            "divide each entry by its own probability: these are different merges"
        )
    if name not in _TASK_VECTORS and name not in _OTHERS:
        raise UnknownNameError("mergekit method", name, [*_TASK_VECTORS, *_OTHERS])
    for key in ("slices", "modules"):
        if config.get(key):
            raise ConfigurationError(f"mergekit's {key} stack layers; only whole models are merged")
    reader = _Reader(config)
    dtype = str(config.get("out_dtype") or config.get("dtype") or "same")
    common: dict[str, Any] = {"experts": reader.experts, "dtype": dtype}
    if name in _TASK_VECTORS:
        merge, rows = _task_vectors(name, reader)
        return MergeRecipe(base=reader.base, merge=merge, **common, **rows)
    if name == "linear":
        if not reader.flag("normalize", True):
            raise ConfigurationError(
                "mergekit's linear with normalize: false scales the weights themselves, which has "
                "no counterpart here"
            )
        return MergeRecipe(merge={"method": "average"}, **common, **reader.rows("weight"))
    if name == "model_stock":
        if reader.flag("filter_wise", False):
            raise ConfigurationError("model_stock with filter_wise: true has no counterpart here")
        ones = dict.fromkeys(reader.experts, 1.0)
        return MergeRecipe(
            base=reader.base, merge={"method": "model-stock"}, coefficients=ones, **common
        )
    if name == "karcher":
        ones = dict.fromkeys(reader.experts, 1.0)
        return MergeRecipe(merge={"method": "slerp"}, coefficients=ones, **common)
    return _slerp(reader, dtype)


def _task_vectors(name: str, reader: _Reader) -> tuple[dict[str, Any], dict[str, Any]]:
    ours, extra, normalize, averages = _TASK_VECTORS[name]
    merge: dict[str, Any] = {"method": ours} | extra
    if ours != "linear":
        merge["density"] = reader.common("density", _DENSITY)
    if ours == "breadcrumbs":
        # With everything kept it does not look at gamma.
        merge["gamma"] = 0.0 if merge["density"] >= 1 else reader.common("gamma", _GAMMA)
    normalize = reader.flag("normalize", normalize)
    scale = reader.number("lambda", 1.0)
    rows = reader.rows("weight")
    if ours == "dare" and not reader.flag("rescale", True):
        raise ConfigurationError(f"{name} without rescale has no counterpart here")
    if ours != "dare" and reader.flag("rescale", False):
        raise ConfigurationError(f"{name} with rescale: true has no counterpart here")
    for row in (rows["coefficients"], *(group.coefficients for group in rows["groups"])):
        values = list(row.values())
        if averages and not (normalize and len(set(values)) == 1 and values[0] > 0):
            raise ConfigurationError(
                f"mergekit's {name} is the same merge here only with normalize: true and equal "
                f"positive weights (then it is the disjoint mean of TIES); got normalize: "
                f"{str(normalize).lower()}, weights {values}"
            )
        total = sum(values) if normalize else 1.0
        for expert, value in row.items():
            row[expert] = scale if averages else scale * value / total
    return merge, rows


def _slerp(reader: _Reader, dtype: str) -> MergeRecipe:
    if reader.base is None or len(reader.experts) != 1:
        raise ConfigurationError("mergekit's slerp joins base_model and one other model")
    (other, source), *_ = reader.experts.items()
    start = "start" if other != "start" else "first"
    steps = _conditions(reader.parameters.get("t"), "t")

    def row(t: float) -> dict[str, float]:
        return {start: 1 - t, other: t}

    return MergeRecipe(
        experts={start: reader.base, other: source},
        merge={"method": "slerp", "norms": "own"},
        dtype=dtype,
        coefficients=row(steps.get(None, 0.5)),
        groups=[Group(match=f"*{k}*", coefficients=row(v)) for k, v in steps.items() if k],
    )


class _Reader:
    """Models and parameters of a mergekit configuration."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        base = config.get("base_model")
        self.base: str | None = None if base is None else str(base)
        self.parameters: dict[str, Any] = dict(config.get("parameters") or {})
        listed = config.get("models")
        if not isinstance(listed, list) or not listed:
            raise ConfigurationError("the mergekit configuration lists no models")
        own = [(str(m["model"]), dict(m.get("parameters") or {})) for m in listed]
        others = [(source, values) for source, values in own if source != self.base]
        names = _names([source for source, _ in others])
        self.experts = dict(zip(names, (source for source, _ in others), strict=True))
        self._own = dict(zip(names, (values for _, values in others), strict=True))

    def flag(self, key: str, default: bool) -> bool:
        return bool(self.parameters.get(key, default))

    def number(self, key: str, default: float) -> float:
        return _conditions(self.parameters.get(key, default), key).get(None, default)

    def common(self, key: str, default: float) -> float:
        """A parameter that must be one number for all models."""
        values = {
            name: _conditions(own.get(key, self.parameters.get(key, default)), key)
            for name, own in self._own.items()
        }
        found = {value for steps in values.values() for value in steps.values()}
        if len(found) != 1:
            raise ConfigurationError(
                f"{key} must be the same for all models and tensors, got {sorted(found)}"
            )
        return found.pop()

    def rows(self, key: str) -> dict[str, Any]:
        """Coefficients and groups from a parameter of every model."""
        steps = {}
        for name, own in self._own.items():
            given = own.get(key, self.parameters.get(key))
            if given is None:
                raise ConfigurationError(f"model {self.experts[name]!r} has no {key}")
            steps[name] = _conditions(given, key)
        filters = list(dict.fromkeys(f for found in steps.values() for f in found if f))
        rest = {name: found.get(None, 0.0) for name, found in steps.items()}
        groups = [
            Group(
                match=f"*{pattern}*",
                coefficients={n: found.get(pattern, rest[n]) for n, found in steps.items()},
            )
            for pattern in filters
        ]
        return {"coefficients": rest, "groups": groups}


def _conditions(value: Any, key: str) -> dict[str | None, float]:
    """A number, or numbers by filter on tensor names, with the one for the rest under None."""
    if isinstance(value, int | float):
        return {None: float(value)}
    if isinstance(value, Sequence) and all(isinstance(v, Mapping) for v in value):
        found = {v.get("filter"): v["value"] for v in value}
        if all(isinstance(number, int | float) for number in found.values()):
            return {name: float(number) for name, number in found.items()}
    raise ConfigurationError(
        f"mergekit's {key}: {value!r}: lists over layers have no counterpart here; give a number, "
        "or numbers by filter"
    )


def _names(sources: Sequence[str]) -> list[str]:
    """Short names of models: the last part of the path, numbered where that is not unique."""
    short = [Path(source.partition("@")[0]).name for source in sources]
    return [s if short.count(s) == 1 else f"{s}-{i + 1}" for i, s in enumerate(short)]


def to_mergekit(recipe: MergeRecipe) -> dict[str, Any]:
    """The configuration with which mergekit makes the same merge.

    Args:
        recipe: What to merge. Groups must be patterns of the form ``*part*``.

    Raises:
        ConfigurationError: mergekit has no such merge.

    Example:
        >>> recipe = MergeRecipe(base="b", experts={"x": "x"}, coefficients={"x": 0.5})
        >>> to_mergekit(recipe)["models"]
        [{'model': 'x', 'parameters': {'weight': 0.5}}]
    """
    table = recipe.method.table
    ours = table.pop("method")
    result: dict[str, Any] = {}
    if recipe.base is not None:
        result["base_model"] = recipe.base
    parameters: dict[str, Any] = {}
    own: dict[str, Any] = {}
    if ours == "average":
        result = {"merge_method": "linear"}
        parameters["normalize"] = True
    elif ours == "slerp" and table["of"] == "weights":
        return _to_slerp(recipe)
    elif ours == "model-stock":
        _require_equal(recipe, ours, 1.0)
        result["merge_method"] = "model_stock"
        return result | {"models": [{"model": s} for s in recipe.experts.values()]} | _dtype(recipe)
    else:
        theirs = next(
            (
                name
                for name, (method, extra, _, _) in _TASK_VECTORS.items()
                if method == ours and all(table.get(k) == v for k, v in extra.items())
            ),
            None,
        )
        if theirs is None:
            raise ConfigurationError(f"mergekit has no counterpart of {recipe.method}")
        averages = _TASK_VECTORS[theirs][3]
        result["merge_method"] = theirs
        parameters["normalize"] = averages
        own = {k: table[k] for k in ("density", "gamma") if k in table}
        if averages:
            parameters["lambda"] = _require_equal(recipe, ours)
            models = [
                {"model": source, "parameters": {"weight": 1.0} | own}
                for source in recipe.experts.values()
            ]
            return result | {"models": models, "parameters": parameters} | _dtype(recipe)
    models = [
        {"model": source, "parameters": {"weight": _weight(recipe, name)} | own}
        for name, source in recipe.experts.items()
    ]
    return result | {"models": models, "parameters": parameters} | _dtype(recipe)


def _to_slerp(recipe: MergeRecipe) -> dict[str, Any]:
    if recipe.merge.get("norms") == "own":
        return _to_slerp_of_two(recipe)
    values = set(recipe.coefficients.values())
    if len(values) == 1 and len(recipe.coefficients) == len(recipe.experts) and not recipe.groups:
        models = [{"model": source} for source in recipe.experts.values()]
        return {"merge_method": "karcher", "models": models} | _dtype(recipe)
    raise ConfigurationError(
        'mergekit\'s karcher weighs all models alike, and its slerp has norms = "own"'
    )


def _to_slerp_of_two(recipe: MergeRecipe) -> dict[str, Any]:
    if len(recipe.experts) != 2:
        raise ConfigurationError(f"mergekit's slerp joins two models, not {len(recipe.experts)}")
    first, second = recipe.experts
    # t is the share of the second; steps by filter are told as the other coefficients are.
    shared = recipe.model_copy(
        update={
            "coefficients": _shares(recipe.coefficients, first, second),
            "groups": [
                g.model_copy(update={"coefficients": _shares(g.coefficients, first, second)})
                for g in recipe.groups
            ],
        }
    )
    return {
        "merge_method": "slerp",
        "base_model": recipe.experts[first],
        "models": [{"model": source} for source in recipe.experts.values()],
        "parameters": {"t": _weight(shared, second)},
    } | _dtype(recipe)


def _shares(row: Mapping[str, float], first: str, second: str) -> dict[str, float]:
    given = np.array([[row.get(first, 0.0), row.get(second, 0.0)]])
    return dict(zip((first, second), shares(given, "slerp")[0].tolist(), strict=True))


def _require_equal(recipe: MergeRecipe, method: str, value: float | None = None) -> float:
    found = {recipe.coefficients.get(name, 0.0) for name in recipe.experts}
    if recipe.groups or len(found) != 1 or (value is not None and found != {value}):
        wanted = "equal coefficients" if value is None else f"coefficients of {value:g}"
        raise ConfigurationError(f"mergekit's counterpart of {method!r} has {wanted} only")
    return found.pop()


def _weight(recipe: MergeRecipe, name: str) -> Any:
    rest = recipe.coefficients.get(name, 0.0)
    steps: list[dict[str, Any]] = []
    for group in recipe.groups:
        inner = group.match.strip("*")
        if group.match != f"*{inner}*" or any(c in inner for c in "*?["):
            raise ConfigurationError(
                f"mergekit filters by parts of tensor names; {group.match!r} is not of the form "
                "'*part*'"
            )
        steps.append({"filter": inner, "value": group.coefficients.get(name, 0.0)})
    return [*steps, {"value": rest}] if steps else rest


def _dtype(recipe: MergeRecipe) -> dict[str, str]:
    return {} if recipe.dtype == "same" else {"dtype": "float32", "out_dtype": recipe.dtype}
