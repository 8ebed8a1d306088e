"""Checkpoints tensor by tensor: what is written is what safetensors and transformers read."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from moofusion.errors import PoolError
from moofusion.weights.shards import Checkpoint, ShardWriter

TENSORS = {
    "a": torch.randn(3, 5),
    "b": torch.randn(7),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
    "ids": torch.arange(6),
    "half": torch.randn(4, 2).bfloat16(),
    "flags": torch.tensor([True, False, True]),
}
FORMATS = {
    "a": "F32", "b": "F16", "scalar": "F32", "empty": "F32", "ids": "I64", "half": "BF16",
    "flags": "BOOL",
}  # fmt: skip


def _write(folder, **options):
    announced = {name: (FORMATS[name], tuple(t.shape)) for name, t in TENSORS.items()}
    with ShardWriter(folder, announced, **options) as writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)


def _check(state):
    assert set(state) == set(TENSORS)
    for name, tensor in TENSORS.items():
        expected = tensor.half() if name == "b" else tensor
        assert state[name].dtype == expected.dtype
        assert torch.equal(state[name], expected)


def test_one_file_is_read_by_safetensors(tmp_path):
    _write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    _check(load_file(tmp_path / "model.safetensors"))


def test_several_files_are_listed_in_an_index(tmp_path):
    _write(tmp_path, shard_bytes=64)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    state = {}
    for file in files:
        part = load_file(tmp_path / file)
        assert all(index["weight_map"][name] == file for name in part)
        assert len(part) == 1 or sum(t.numel() * t.element_size() for t in part.values()) <= 64
        state |= part
    _check(state)
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size()
                                                  for t in state.values())  # fmt: skip


def test_what_is_written_is_read_back(tmp_path):
    for name, limit in (("one", 10**9), ("many", 40)):
        (tmp_path / name).mkdir()
        _write(tmp_path / name, shard_bytes=limit)
        found = Checkpoint(tmp_path / name, role="base")
        assert set(found.names) == set(TENSORS)
        assert found.shape("a") == (3, 5)
        assert found.format("half") == "BF16"
        assert found.is_float("b")
        assert not found.is_float("ids")
        _check({key: found.read(key) for key in found.names})


def test_damaged_and_missing_files_are_named(tmp_path):
    with pytest.raises(PoolError, match=r"base: .* holds no \*\.safetensors file"):
        Checkpoint(tmp_path, role="base")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(PoolError, match=r"model\.safetensors cannot be read"):
        Checkpoint(tmp_path, role="base")
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
    listed = {"weight_map": {"w": "gone.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(listed))
    with pytest.raises(PoolError, match=r"gone\.safetensors cannot be read"):
        Checkpoint(tmp_path, role="expert 'x'")


def test_another_version_of_the_weights_beside_them_is_not_read(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    save_file({"layers.0.w": torch.ones(2)}, tmp_path / "consolidated.safetensors")
    assert Checkpoint(tmp_path, role="base").names == ("w",)


def test_pieces_are_copies_however_many_share_a_memory_map(tmp_path):
    values = {"w": torch.arange(6.0).view(2, 3), "h": torch.arange(6.0).bfloat16()}
    save_file(values, tmp_path / "model.safetensors")
    opened = Checkpoint(tmp_path, role="base")
    for name in ("w", "h", "w"):
        opened.piece(name, slice(1, 4)).zero_()
        assert opened.piece(name, slice(1, 4)).tolist() == [1.0, 2.0, 3.0]
