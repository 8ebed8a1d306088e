"""Opening one model: a folder, a hub id or a module, refused early when it cannot be trusted."""

from __future__ import annotations

import copy
import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moofusion.errors import PoolError
from moofusion.weights.adapters import is_adapter

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "TASK_HEADED",
    "TOKENIZER_FILES",
    "TOWERS",
    "architecture",
    "empty_model",
    "find_folder",
    "no_space",
    "open_model",
    "quiet_transformers",
]

#: Files of which a folder with a tokenizer holds at least one.
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "tekken.json",
)

#: Models of which experts may be one tower alone: class of the whole, class of the tower.
TOWERS = {"CLIPModel": "CLIPVisionModel"}

#: Classes of transformers that end in the head of one task.
TASK_HEADED = re.compile(r"For\w*(Classification|MultipleChoice|QuestionAnswering)$")

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
_HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?$")


def find_folder(source: str | Path, *, role: str, allow_pickle: bool = False) -> Path:
    """Local folder of a checkpoint: the folder itself, or the hub's snapshot of it.

    Args:
        source: Folder, or hub id (``owner/name``, with ``@revision`` where one is wanted).
        role: Who asks, for the messages (``"base"``, ``"expert 'mnist'"``).
        allow_pickle: Also fetch pickled weights.

    Raises:
        PoolError: Neither a folder nor a repository that can be reached.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    text = str(source)
    repo, _, revision = text.partition("@")
    if folder.exists() or not _HUB_ID.match(repo) or text.startswith((".", "/", "~")):
        raise PoolError(
            f"{role}: {text!r} is not a folder; expected a folder with config.json and "
            "*.safetensors, or a hub id such as 'google/vit-base-patch16-224'"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = _HUB_FILES + (["pytorch_model*.bin"] if allow_pickle else [])
    try:
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=patterns))
    except GatedRepoError as error:
        raise PoolError(
            f"{role}: {repo!r} is gated; ask for access on its page and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise PoolError(
            f"{role}: no folder and no hub repository is called {repo!r}; check the spelling, or "
            "log in with `hf auth login` if it is private"
        ) from error
    except RevisionNotFoundError as error:
        raise PoolError(f"{role}: {repo!r} has no revision {revision!r}") from error
    except (LocalEntryNotFoundError, OSError) as error:
        if full := no_space(error):
            raise PoolError(f"{role}: {repo!r} could not be fetched: {full}") from error
        raise PoolError(
            f"{role}: there is no folder {text!r}, and the hub repository of that name could not "
            "be fetched (no network, or offline mode) and is not in the cache; connect once, or "
            "give a local folder (for a problem of the catalogue: --set folder=FOLDER)"
        ) from error


def no_space(error: BaseException | None) -> str:
    """What to do if `error`, or what caused it, is a full disk; empty if it is not.

    Example:
        >>> no_space(OSError(28, "No space left on device"))[:16]
        'the disk is full'
        >>> no_space(OSError(2, "No such file"))
        ''
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            from huggingface_hub.constants import HF_HOME

            return (
                f"the disk is full; free some space, or set HF_HOME (now {HF_HOME}) to a folder on "
                "a larger disk"
            )
        error = error.__cause__ or error.__context__
    return ""


def open_model(
    source: str | Path | nn.Module,
    *,
    role: str,
    allow_pickle: bool = False,
    tower: str | None = None,
) -> tuple[nn.Module, Path | None]:
    """Load a model in float32, complete or not at all.

    The class is the one the checkpoint names itself (``architectures`` in config.json).

    Args:
        source: Folder, hub id, or a module, which is copied.
        role: Who asks, for the messages.
        allow_pickle: Accept pickled weights, which can run code when read. Off by default.
        tower: Class of one tower (``"CLIPVisionModel"``): of a checkpoint of the whole, read this
            tower alone.

    Returns:
        The model in evaluation mode, and its folder (None for a module).

    Raises:
        PoolError: The folder, its configuration or its weights cannot be used.
    """
    from torch import nn

    if isinstance(source, nn.Module):
        # A copy: its parameters will become views of the flat buffer, the caller's must not.
        return copy.deepcopy(source).float().eval(), None
    folder = find_folder(source, role=role, allow_pickle=allow_pickle)
    named = architecture(folder, role=role)
    pickled = _check_weight_files(folder, role, allow_pickle)
    part = tower is not None and TOWERS.get(named) == tower
    model = _from_pretrained(folder, role, tower if part and tower else named, pickled, part=part)
    return model, folder


def architecture(folder: Path, *, role: str) -> str:
    """Name of the class that a checkpoint asks for, read from its configuration alone.

    Raises:
        PoolError: There is no configuration, or it cannot be used.
    """
    import transformers

    if is_adapter(folder):
        raise PoolError(
            f"{role}: {folder} holds a LoRA adapter, not a full model; adapters can be experts of "
            "a pool, from local folders. Else merge it into its base first (peft: "
            "`model.merge_and_unload().save_pretrained(...)`)"
        )
    if not (folder / "config.json").exists():
        raise PoolError(f"{role}: {folder} has no config.json, so its architecture is unknown")
    try:
        with quiet_transformers():
            config = transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PoolError(f"{role}: {folder}/config.json cannot be used: {error}") from error
    return str((getattr(config, "architectures", None) or ["AutoModel"])[0])


def empty_model(folder: Path, *, role: str) -> nn.Module:
    """The modules of a checkpoint without their weights: names, kinds and shapes alone.

    Raises:
        PoolError: There is no configuration, or no class of transformers for it.
    """
    import torch
    import transformers

    named = architecture(folder, role=role)
    model_class: Any = getattr(transformers, named, None)
    if model_class is None:
        raise PoolError(
            f"{role}: {folder}/config.json names the architecture {named}, which transformers "
            "does not know"
        )
    with quiet_transformers(), torch.device("meta"):
        config = transformers.AutoConfig.from_pretrained(folder)
        from_config = model_class.from_config if named == "AutoModel" else model_class
        return from_config(config)  # type: ignore[no-any-return]


def _check_weight_files(folder: Path, role: str, allow_pickle: bool) -> bool:
    """Whether the weights are pickled; raises on missing, refused or damaged files."""
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PoolError(
                f"{role}: {index} does not list the weight files; fetch it again"
            ) from error
        files = [folder / name for name in sorted(names)]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        found = [f for pattern in _PICKLES for f in sorted(folder.glob(pattern))]
        if not found:
            raise PoolError(f"{role}: {folder} holds no *.safetensors file")
        if not allow_pickle:
            raise PoolError(
                f"{role}: the weights in {folder} are pickled ({found[0].name}), and unpickling "
                "can run code; convert them to safetensors, or pass allow_pickle=True if you "
                "trust whoever made the file"
            )
        return True
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except FileNotFoundError as error:
            raise PoolError(f"{role}: {file} is listed in {index.name} but missing") from error
        except (SafetensorError, OSError) as error:
            raise PoolError(
                f"{role}: {file} cannot be read ({error}); it is damaged or was not copied "
                "completely, fetch it again"
            ) from error
    return False


def _from_pretrained(
    folder: Path, role: str, named: str, pickled: bool, *, part: bool = False
) -> nn.Module:
    import torch
    import transformers

    model_class: Any = getattr(transformers, named, transformers.AutoModel)
    with quiet_transformers():
        try:
            model, info = model_class.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=not pickled,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise PoolError(f"{role}: {folder} cannot be loaded as {named}: {error}") from error
    if part:
        info["unexpected_keys"] = set()  # the rest of the whole
    _check_complete(model, info, folder, role)
    return model.eval()  # type: ignore[no-any-return]


def _check_complete(model: Any, info: dict[str, Any], folder: Path, role: str) -> None:
    named = type(model).__name__
    wrong = sorted(info["mismatched_keys"])
    if wrong:
        name, stored, expected = wrong[0]
        raise PoolError(
            f"{role}: {len(wrong)} tensor(s) in {folder} have another shape than {named} expects: "
            f"{name} is {tuple(stored)}, expected {tuple(expected)}"
        )
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if not TASK_HEADED.search(named) and any("pooler" in key.split(".") for key in missing):
        # Checkpoints of many bodies never had a pooler; a random one must not be merged.
        model.base_model.pooler = None
        missing = [key for key in missing if "pooler" not in key.split(".")]
    if role == "base" and not TASK_HEADED.search(named):
        # What pretraining left beside the body (BERT: pooler, next sentence) is of no use here.
        body = model.base_model_prefix if model.base_model is not model else ""
        unexpected = [k for k in unexpected if k.startswith(body) and "pooler" not in k.split(".")]
    for what, keys in (("lacks", missing), ("has unexpected", unexpected)):
        if keys:
            raise PoolError(
                f"{role}: the checkpoint in {folder} {what} {len(keys)} tensor(s) of {named}: "
                f"{_first(keys)}"
            )


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own bars and load reports off the screen; what matters is raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
