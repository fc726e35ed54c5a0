"""Broken safetensors files: each refused by name, the readable rest still read."""

import json
import struct

import pytest
import tiny
import torch
from safetensors.torch import save_file

from kappa_lib.errors import CheckpointError
from kappa_lib.weights.assets import write_record
from kappa_lib.weights.models import open_checkpoint


def write_raw(path, header: dict, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(start: int, stop: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


BROKEN = {
    "offset for tensor `b`": ({"a": entry(0, 16, [2, 2]), "b": entry(8, 24, [2, 2])}, 24),
    "invalid offset": ({"a": entry(0, 16, [2, 2]), "b": entry(24, 40, [2, 2])}, 40),
    "not fully covered": ({"a": entry(0, 16, [2, 2])}, 12),
    "invalid shape": ({"a": entry(0, 16, [2, 3])}, 16),
    "unknown variant `Q9`": ({"a": entry(0, 16, [2, 2], "Q9")}, 16),
    "missing field": ({"a": {"dtype": "F32"}}, 0),
}


@pytest.mark.parametrize(("word", "content"), BROKEN.items(), ids=list(BROKEN))
def test_contradictory_header_is_refused(word, content, tmp_path):
    header, size = content
    path = tmp_path / "model.safetensors"
    write_raw(path, header, bytes(size))
    with pytest.raises(CheckpointError, match=word) as caught:
        open_checkpoint(path)
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize("length", [0, 4, 8, 20])
def test_truncated_header_is_refused(length, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.eye(4)}, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*header"):
        open_checkpoint(path)


def test_header_that_is_not_json_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 5) + b"[oops" + bytes(8))
    with pytest.raises(CheckpointError, match="invalid JSON"):
        open_checkpoint(path)


@pytest.fixture
def two_shards(tmp_path):
    save_file({"a.weight": torch.eye(4)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b.weight": 2 * torch.eye(4)}, tmp_path / "model-00002-of-00002.safetensors")
    return tmp_path


def test_missing_shard_is_named_and_the_other_is_read(two_shards):
    (two_shards / "model-00002-of-00002.safetensors").unlink()
    checkpoint = open_checkpoint(two_shards)
    assert [info.name for info in checkpoint.tensors] == ["a.weight"]
    assert "model-00002-of-00002.safetensors: missing shard" in str(checkpoint.problems[0])


def test_corrupt_shard_is_named_and_the_other_is_read(two_shards):
    path = two_shards / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    checkpoint = open_checkpoint(two_shards)
    assert [info.name for info in checkpoint.tensors] == ["b.weight"]
    assert path.name in str(checkpoint.problems[0])


def test_index_that_promises_more_is_refused(two_shards):
    weight_map = {
        "a.weight": "model-00001-of-00002.safetensors",
        "c.weight": "model-00001-of-00002.safetensors",
    }
    index = two_shards / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"lacks c\.weight"):
        open_checkpoint(two_shards)


def test_unreadable_index_is_refused(two_shards):
    (two_shards / "model.safetensors.index.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a readable index"):
        open_checkpoint(two_shards)


def test_tensor_in_two_shards_is_refused(two_shards):
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        (two_shards / name).rename(two_shards / f"part{number}.safetensors")
    save_file({"a.weight": torch.eye(4)}, two_shards / "extra.safetensors")
    problems = open_checkpoint(two_shards).problems
    assert "a.weight is also in extra.safetensors" in str(problems[0])


def test_stored_dtypes_are_told_and_read(tmp_path):
    tensors = {
        "a": torch.eye(2, dtype=torch.bfloat16),
        "b": torch.eye(2, dtype=torch.float64),
        "c": torch.zeros(2, 2, dtype=torch.int64),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    found = tiny.read_all(tmp_path / "model.safetensors")
    assert {name: dtype for name, (_, dtype) in found.items()} == {"a": "BF16", "b": "F64"}
    assert torch.equal(found["b"][0], tensors["b"])


def test_origin_of_dequantised_weights_is_told(tmp_path):
    save_file({"a": torch.eye(2)}, tmp_path / "model.safetensors")
    write_record(tmp_path, "a GGUF", stored_as="Q4_1")
    assert open_checkpoint(tmp_path).tensors[0].dtype == "Q4_1→F32"
