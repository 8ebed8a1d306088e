"""Checkpoints too large for memory: tensors read one by one, written one by one."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from moofusion.errors import PoolError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Checkpoint", "ShardWriter"]

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
# Entries that are converted at a time, or read by one memory map.
_ENTRIES = 1 << 22
# Names of number formats in safetensors files, and in torch.
_FORMATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_CODES = {name: code for code, name in _FORMATS.items()}
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
_BYTES |= {"U8": 1, "BOOL": 1}


class Checkpoint:
    """The tensors of a folder of safetensors files, sharded or not; nothing is read in advance.

    Args:
        folder: The checkpoint.
        role: Who asks, for the messages.

    Attributes:
        names: Names of the tensors, in the order of the files.

    Raises:
        PoolError: There are no safetensors files, or one is missing or damaged.

    Example:
        >>> from moofusion.zoo import zoo_folder
        >>> base = Checkpoint(zoo_folder("vision4") / "models" / "base", role="base")
        >>> base.shape("classifier.bias")
        (301,)
    """

    def __init__(self, folder: Path, *, role: str) -> None:
        from safetensors import SafetensorError, safe_open

        self.folder, self.role = folder, role
        self._file: dict[str, Path] = {}
        self._about: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._held: tuple[str, Tensor | None, int] = "", None, 0
        for file in self._files():
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():
                        part = opened.get_slice(name)
                        self._file[name] = file
                        self._about[name] = str(part.get_dtype()), tuple(part.get_shape())
            except (SafetensorError, OSError) as error:
                raise PoolError(
                    f"{role}: {file} cannot be read ({error}); it is missing or damaged, fetch it "
                    "again"
                ) from error
        self.names = tuple(self._about)

    def _files(self) -> list[Path]:
        index = self.folder / _INDEX
        if index.exists():
            try:
                listed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise PoolError(f"{self.role}: {index} does not list the weight files") from error
            return [self.folder / name for name in sorted(listed)]
        if (self.folder / _SINGLE).exists():
            return [self.folder / _SINGLE]  # others beside it are other versions of the model
        files = sorted(self.folder.glob("*.safetensors"))
        if not files:
            raise PoolError(f"{self.role}: {self.folder} holds no *.safetensors file")
        return files

    def __contains__(self, name: object) -> bool:
        return name in self._about

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._about[name][1]

    def format(self, name: str) -> str:
        """Its number format, as in safetensors files (``"BF16"``)."""
        return self._about[name][0]

    def is_float(self, name: str) -> bool:
        """Whether it can be merged."""
        return self.format(name) in _FORMATS

    def read(self, name: str) -> Tensor:
        """The tensor, by way of a memory map that is given up with the last view of it."""
        from safetensors import safe_open

        with safe_open(self._file[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor

    def piece(self, name: str, place: slice) -> Tensor:
        """Entries of the flattened tensor, in single precision; changes never reach the file.

        The memory map stays open for the next piece, until as many entries have been read of it.
        """
        import torch

        held, flat, used = self._held
        if held != name or flat is None or used > _ENTRIES:
            flat, used = self.read(name).flatten(), 0
        part = flat[place]
        self._held = name, flat, used + len(part)
        return part.float() if part.dtype != torch.float32 else part.clone()


class ShardWriter:
    """Writes tensors to safetensors files one after the other, with an index if there are several.

    Names, shapes and formats are given first, since a file begins with them; then every tensor in
    the same order. Memory is that of one tensor, whatever the size of a file.

    Args:
        folder: Where to write.
        tensors: For each tensor its format (``"BF16"``) and shape.
        shard_bytes: A file takes no more than this, unless a single tensor does.

    Example:
        >>> import tempfile, torch
        >>> from safetensors.torch import load_file
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with ShardWriter(Path(place), {"w": ("F32", (2,))}) as writer:
        ...         writer.write("w", torch.tensor([1.0, 2.0]))
        ...     load_file(Path(place) / "model.safetensors")
        {'w': tensor([1., 2.])}
    """

    def __init__(
        self,
        folder: Path,
        tensors: Mapping[str, tuple[str, Sequence[int]]],
        *,
        shard_bytes: int = 5 * 10**9,
    ) -> None:
        self.folder = folder
        self._sizes = {n: prod(shape) * _BYTES[code] for n, (code, shape) in tensors.items()}
        self._formats = {name: code for name, (code, _) in tensors.items()}
        self._shards = _split(self._sizes, shard_bytes)
        self._headers = [
            _header({name: tensors[name] for name in shard}, self._sizes) for shard in self._shards
        ]
        self._next = iter([(i, name) for i, shard in enumerate(self._shards) for name in shard])
        self._open: tuple[int, BinaryIO] | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._open is not None:
            self._open[1].close()
        if kind is None:
            left = next(self._next, None)
            assert left is None, f"tensor {left} was announced and not written"
            self._write_index()

    def _file_name(self, shard: int) -> str:
        count = len(self._shards)
        return _SINGLE if count == 1 else f"model-{shard + 1:05}-of-{count:05}.safetensors"

    def write(self, name: str, tensor: Tensor) -> None:
        """Convert the next tensor to its format and append it."""
        import torch

        shard, expected = next(self._next)
        assert name == expected, f"{name} came before {expected}"
        if self._open is None or self._open[0] != shard:
            if self._open is not None:
                self._open[1].close()
            file = (self.folder / self._file_name(shard)).open("wb")
            file.write(self._headers[shard])
            self._open = shard, file
        code = self._formats[name]
        kind = getattr(torch, _FORMATS[code]) if code in _FORMATS else tensor.dtype
        flat = tensor.detach().contiguous().flatten()
        size = len(flat) * kind.itemsize
        assert size == self._sizes[name], f"{name} is not what was announced"
        for start in range(0, len(flat), _ENTRIES):
            piece = flat[start : start + _ENTRIES].cpu().to(kind)
            self._open[1].write(piece.view(torch.uint8).numpy().data)

    def _write_index(self) -> None:
        if len(self._shards) == 1:
            return
        index = {
            "metadata": {"total_size": sum(self._sizes.values())},
            "weight_map": {
                name: self._file_name(i) for i, shard in enumerate(self._shards) for name in shard
            },
        }
        text = json.dumps(index, indent=2) + "\n"
        (self.folder / _INDEX).write_text(text, encoding="utf-8")


def format_of(dtype: str) -> str:
    """Name in safetensors files of one of torch's float formats."""
    return _CODES[dtype]


def _split(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _header(tensors: Mapping[str, tuple[str, Sequence[int]]], sizes: Mapping[str, int]) -> bytes:
    """Length and table at the head of a safetensors file (github.com/huggingface/safetensors)."""
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (code, shape) in tensors.items():
        end = offset + sizes[name]
        table[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at multiples of 8 bytes
    return struct.pack("<Q", len(text)) + text
