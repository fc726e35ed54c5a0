"""Broken safetensors files: each refused by name, the readable rest still read."""

import json
import struct
import subprocess
import sys

import pytest
import tiny
import torch
from safetensors.torch import save, save_file
from transformers import LlamaForCausalLM

from kappa_lib import paths
from kappa_lib.errors import CheckpointError, InputError
from kappa_lib.weights.models import open_checkpoint


def entry(start: int, stop: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def raw(header: dict, data: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


WHOLE = save({"a": torch.eye(4)})
BROKEN = {
    "offset for tensor `b`": raw({"a": entry(0, 16, [2, 2]), "b": entry(8, 24, [2, 2])}, 24),
    "invalid offset": raw({"a": entry(0, 16, [2, 2]), "b": entry(24, 40, [2, 2])}, 40),
    "not fully covered": raw({"a": entry(0, 16, [2, 2])}, 12),
    "invalid shape": raw({"a": entry(0, 16, [2, 3])}, 16),
    "unknown variant `Q9`": raw({"a": entry(0, 16, [2, 2], "Q9")}, 16),
    "missing field": raw({"a": {"dtype": "F32"}}, 0),
    "invalid JSON": struct.pack("<Q", 5) + b"[oops" + bytes(8),
}
CASES = [*BROKEN.items(), *(("header", WHOLE[:length]) for length in (0, 4, 8, 20))]


@pytest.mark.parametrize(("word", "content"), CASES)
def test_a_damaged_header_is_refused(word, content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{word}"):
        open_checkpoint(path)


@pytest.fixture
def two_shards(tmp_path):
    save_file({"a.weight": torch.eye(4)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b.weight": 2 * torch.eye(4)}, tmp_path / "model-00002-of-00002.safetensors")
    return tmp_path


@pytest.mark.parametrize("missing", [True, False])
def test_a_missing_or_damaged_shard_is_named_and_the_other_is_read(missing, two_shards):
    path = two_shards / "model-00002-of-00002.safetensors"
    if missing:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3])
    checkpoint = open_checkpoint(two_shards)
    assert [info.name for info in checkpoint.tensors] == ["a.weight"]
    said = f"{path.name}: " + ("No such file" if missing else "")
    assert str(checkpoint.problems[0]).startswith(said)


FIRST = "model-00001-of-00002.safetensors"
PROMISES = json.dumps({"weight_map": {"a.weight": FIRST, "c.weight": FIRST}})


@pytest.mark.parametrize(
    ("text", "said"), [(PROMISES, r"lacks c\.weight"), ("{", "index.json: not JSON")]
)
def test_an_index_that_promises_more_or_is_damaged_is_refused(text, said, two_shards):
    (two_shards / "model.safetensors.index.json").write_text(text)
    with pytest.raises((CheckpointError, InputError), match=said):
        open_checkpoint(two_shards)


def test_tensor_in_two_shards_is_refused(two_shards):
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        (two_shards / name).rename(two_shards / f"part{number}.safetensors")
    save_file({"a.weight": torch.eye(4)}, two_shards / "extra.safetensors")
    problems = open_checkpoint(two_shards).problems
    assert "a.weight is also in extra.safetensors" in str(problems[0])


@pytest.mark.parametrize("shards", [True, False])
def test_a_single_file_comes_before_an_index_as_transformers_loads_them(shards, tmp_path):
    """Of a model saved again, smaller, where it had been saved before."""
    model = tiny.untied_llama(layers=1)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.add_(1)
    model.save_pretrained(tmp_path / "new")
    (tmp_path / "new" / "model.safetensors").rename(tmp_path / "model.safetensors")
    old = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    if not shards:
        for name in old:
            (tmp_path / name).unlink()
    name = "model.layers.0.mlp.up_proj.weight"
    checkpoint = open_checkpoint(tmp_path)
    found = {info.name: info.read() for info in checkpoint.tensors}
    loaded = LlamaForCausalLM.from_pretrained(tmp_path).get_parameter(name)
    assert found[name].equal(loaded)
    assert found[name].equal(model.get_parameter(name))
    assert checkpoint.left_out.keys() == (set(old) if shards else set())
    assert not checkpoint.problems


PAIR = ["model-00001-of-00002", "model-00002-of-00002"]
MAKERS = ["consolidated", "consolidated-00001-of-00001"]  # the same weights again
FOLDERS = [
    (PAIR, MAKERS, True),
    (PAIR, MAKERS, False),
    (["consolidated"], [], False),
    (["model"], ["model.fp16", "adapter_model"], False),
    (["diffusion"], ["other"], True),
]


@pytest.mark.parametrize(("chosen", "others", "with_index"), FOLDERS)
def test_a_folder_s_other_files_are_named(chosen, others, with_index, tmp_path):
    for number, name in enumerate([*chosen, *others]):
        save_file({f"{number}.weight": number * torch.eye(4)}, tmp_path / f"{name}.safetensors")
    weight_map = {f"{n}.weight": f"{name}.safetensors" for n, name in enumerate(chosen)}
    if with_index:
        index = tmp_path / f"{chosen[0].partition('-')[0]}.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
    checkpoint = open_checkpoint(tmp_path)
    assert {info.name: info.files for info in checkpoint.tensors} == {
        tensor: (file,) for tensor, file in weight_map.items()
    }
    assert checkpoint.left_out.keys() == {f"{name}.safetensors" for name in others}
    assert not checkpoint.problems


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    """Of eight of 64 MB, read one after the other, in a process of its own."""
    path = tmp_path / "model.safetensors"
    save_file({f"{i}.weight": torch.ones(4096, 4096) for i in range(8)}, path)
    code = f"""
import psutil, torch
from kappa_lib.weights.models import open_checkpoint
checkpoint, highest = open_checkpoint({str(path)!r}), 0
before = psutil.Process().memory_info().rss
for info in checkpoint.tensors:
    total = info.read().sum()
    weight = info.read()
    assert weight.sum() == 2**24
    highest = max(highest, psutil.Process().memory_info().rss - before)
    del weight
print(highest)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=paths.ROOT
    )
    assert 60e6 < int(done.stdout) < 100e6
