"""Small states on disk: arrays and a JSON description in one safetensors file, written at once."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moofusion.errors import RunError

__all__ = ["read_state", "read_training", "write_state"]

_KEY = "moofusion"


def write_state(
    path: Path, arrays: Mapping[str, NDArray[Any]], description: Mapping[str, Any]
) -> Path:
    """Write a file that is complete or, if the process dies, the one that was there before.

    Raises:
        RunError: It cannot be written.
    """
    from safetensors.numpy import save

    content = save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        metadata={_KEY: json.dumps(dict(description))},
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}") from error
    return path


def read_state(path: Path, kind: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and description of a file whose description names this kind.

    Raises:
        RunError: It cannot be read, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as opened:
            description = json.loads((opened.metadata() or {}).get(_KEY, "{}"))
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}
    except FileNotFoundError as error:
        raise RunError(f"there is no {kind} {path}") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if description.get("kind") != kind:
        raise RunError(f"{path} holds {description.get('kind', 'something else')}, not a {kind}")
    return arrays, description


def read_training(
    path: Path, kind: str, settings: Mapping[str, Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The same for the state of a training, which must be of these settings.

    Raises:
        RunError: It cannot be read, or is of another training.
    """
    arrays, description = read_state(path, kind)
    theirs: dict[str, Any] = description["settings"]
    for key, mine in settings.items():
        if theirs.get(key) != mine:
            detail = "" if key in ("made_for", "data") else f": {theirs.get(key)}, not {mine}"
            raise RunError(
                f"{path} is the checkpoint of another training ({key} differs{detail}); "
                "remove it, or give another file"
            )
    return arrays, description
