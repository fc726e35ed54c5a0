"""The same weights from a module, from shards and from GGUF."""

import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaForCausalLM

from kappa_lib.errors import AssetError, CheckpointError, InputError
from kappa_lib.weights.gguf_file import Reader, module_name
from kappa_lib.weights.models import open_checkpoint

HEADS, KV_HEADS = 4, 2


@pytest.fixture(scope="module")
def llama():
    return tiny.untied_llama(layers=2)


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to q and k: row (half, i) of a head becomes row (i, half)."""
    per_head = len(weight) // heads
    order = [h * per_head + half * (per_head // 2) + i
             for h in range(heads) for i in range(per_head // 2) for half in (0, 1)]  # fmt: skip
    return weight[order]


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(model: LlamaForCausalLM, path, architecture="llama", parts=None) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    if parts is not None:
        writer.add_uint16("split.count", parts)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        short = ".".join(parts[3:5])
        if short not in GGUF_NAMES:
            continue
        weight = parameter.detach().numpy()
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(GGUF_NAMES[short])
        weight = interleave(weight, heads) if heads else weight
        writer.add_tensor(f"blk.{parts[2]}.{GGUF_NAMES[short]}.weight", weight)
    finish(writer)


def finish(writer) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_folder_equals_its_module_with_and_without_an_index(llama, tmp_path):
    module = tiny.read_all(llama)
    expected = dict(llama.named_parameters())
    assert module.keys() == expected.keys()
    assert module["model.layers.1.mlp.up_proj.weight"][1] == "float32"
    llama.save_pretrained(tmp_path, max_shard_size="20KB")
    with_index = tiny.read_all(tmp_path)
    files = {info.name: info.files for info in open_checkpoint(tmp_path).tensors}
    (tmp_path / "model.safetensors.index.json").unlink()
    assert {info.name: info.files for info in open_checkpoint(tmp_path).tensors} == files
    for found in (module, with_index, tiny.read_all(tmp_path)):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name][0], expected[name]) for name in expected)


@pytest.mark.parametrize("architecture", ["llama", "granite", "smollm3"])
def test_gguf_equals_module_with_rotary_rows_in_place(architecture, llama, tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(llama, path, architecture)
    found = {name: tensor for name, (tensor, _) in tiny.read_all(path).items()}
    expected = {n: p for n, p in llama.named_parameters() if n in found}
    assert len(found) == len(expected) == 14
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_part_of_a_split_gguf_is_not_taken_for_the_whole(llama, tmp_path):
    write_gguf(llama, tmp_path / "tiny-00001-of-00003.gguf", parts=3)
    with pytest.raises(CheckpointError, match="one of the 3 parts"):
        open_checkpoint(tmp_path / "tiny-00001-of-00003.gguf")


@pytest.mark.parametrize("parts", [0, 1])
def test_parts_that_were_joined_are_the_whole(parts, llama, tmp_path):
    """llama-gguf-split leaves a count of 0 in what it joins, so as not to join it again."""
    write_gguf(llama, tmp_path / "whole.gguf", parts=parts)
    assert len(open_checkpoint(tmp_path / "whole.gguf").tensors) == 14


def test_a_type_that_the_package_does_not_know_is_no_reason_to_fetch_the_same_again(tmp_path):
    """As Q4_0_4_4, which llama.cpp has given up."""
    write_vocabulary(path := tmp_path / "old.gguf")
    data, name = path.read_bytes(), b"\0x" + np.uint32(2).tobytes()
    at = data.index(name) + len(name) + 16
    path.write_bytes(data[:at] + np.uint32(31).tobytes() + data[at + 4 :])
    with pytest.raises(CheckpointError, match=r"31\)? is not a valid") as caught:
        open_checkpoint(path)
    assert "another" in caught.value.remedy


def test_gguf_names_of_other_architectures_are_kept():
    assert module_name("blk.0.attn_q.weight", "rwkv7") == "blk.0.attn_q.weight"
    assert module_name("blk.3.ffn_gate_exps.weight", "llama") == "blk.3.ffn_gate_exps.weight"


VOCABULARY = {  # what tokenizers put there, and a list of layers, which is kept
    "tokens": [f"Wort {n} ü" for n in range(1500)],
    "scores": [-float(n) for n in range(1500)],
    "flags": [True, False] * 750,
    "per_layer": [4, 4, 2, 4],
}


def write_vocabulary(path, endian=gguf.GGUFEndian.LITTLE) -> None:
    writer = gguf.GGUFWriter(path, "llama", endianess=endian)
    for name, values in VOCABULARY.items():
        writer.add_array(name, values)
    writer.add_string("last", "behind them all")
    writer.add_tensor("x", np.arange(6, dtype=np.float32).reshape(2, 3))
    finish(writer)


@pytest.mark.parametrize("endian", list(gguf.GGUFEndian))
def test_a_vocabulary_is_passed_over_and_all_else_is_the_package_s(tmp_path, endian):
    write_vocabulary(tmp_path / "words.gguf", endian)
    ours, theirs = (kind(tmp_path / "words.gguf") for kind in (Reader, gguf.GGUFReader))
    assert list(ours.fields) == list(theirs.fields)
    for name, field in theirs.fields.items():
        long = len(VOCABULARY.get(name, ())) > 1000
        assert ours.fields[name].contents() == ([] if long else field.contents())
    assert ours.data_offset == theirs.data_offset
    assert np.array_equal(ours.tensors[0].data, theirs.tensors[0].data)


def test_a_count_beyond_the_file_ends_at_once(tmp_path):
    write_vocabulary(path := tmp_path / "words.gguf")
    count = np.uint64(1500).tobytes()
    path.write_bytes(path.read_bytes().replace(count, np.uint64(2**40).tobytes()))
    with pytest.raises(CheckpointError, match="not a complete GGUF"):
        open_checkpoint(path)


def test_a_big_endian_file_is_refused_for_its_byte_order(tmp_path):
    write_vocabulary(tmp_path / "words.gguf", gguf.GGUFEndian.BIG)
    with pytest.raises(CheckpointError, match="big-endian") as caught:
        open_checkpoint(tmp_path / "words.gguf")
    command, path, order = caught.value.remedy.partition(": ")[2].split()
    assert shutil.which(command, path=Path(sys.executable).parent)
    shutil.copy(tmp_path / path, turned := tmp_path / "turned.gguf")
    command = Path(sys.executable).with_name(command)
    subprocess.run([command, turned, order], input=b"YES\n", check=True)
    checkpoint = open_checkpoint(turned)
    assert checkpoint.tensors[0].read().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_every_plain_type_of_a_gguf_is_read_and_whole_numbers_are_left_out_by_name(tmp_path):
    """Of modules with a prefix before their blocks, as encoders have it."""
    weights = {
        f"enc.blk.{i}.ffn_up.weight": np.random.default_rng(i).standard_normal((4, 6)).astype(dtype)
        for i, dtype in enumerate((np.float16, np.float32, np.float64))
    }
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "t5")
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    for dtype in (np.int8, np.int16, np.int32, np.int64):
        writer.add_tensor(f"ids_{np.dtype(dtype).name}", np.ones((4, 4), dtype))
    finish(writer)
    checkpoint = open_checkpoint(tmp_path / "a.gguf")
    found = {info.name: info.read().numpy() for info in checkpoint.tensors}
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        np.testing.assert_array_equal(found[name], weight.astype(np.float32))
    assert checkpoint.left_out.keys() == {f"ids_int{bits}" for bits in (8, 16, 32, 64)}


@pytest.mark.parametrize("end", ["", "Wort 700", "last", None])
def test_a_file_that_is_cut_off_or_something_else_is_refused(tmp_path, end):
    path = tmp_path / "words.gguf"
    write_vocabulary(path)
    data = path.read_bytes()
    path.write_bytes(b"only text " * 30 if end is None else data[: data.index(end.encode())])
    with pytest.raises(CheckpointError, match=r"words\.gguf: not a complete GGUF"):
        open_checkpoint(path)


def test_codes_in_a_module_are_refused():
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.uint8), requires_grad=False)
    checkpoint = open_checkpoint(model)
    with pytest.raises(CheckpointError, match="codes and not weights"):
        checkpoint.tensors[0].read()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", r"no \.safetensors file"),
        ("no/such/path/at/all", "not a folder"),
        ("a.gguf", "not a folder"),
    ],
)
def test_unusable_source_is_refused(source, said, tmp_path):
    with pytest.raises((InputError, CheckpointError), match=said):
        open_checkpoint(tmp_path / source)


def test_a_folder_of_gguf_files_is_refused_by_their_names(tmp_path):
    (tmp_path / "weights.gguf").touch()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path / "weights.gguf") in caught.value.remedy


def test_hub_id_without_network_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AssetError, match="nobody/never-cached-model") as caught:
        open_checkpoint("nobody/never-cached-model")
    assert "local folder" in caught.value.remedy


def test_snapshot_folder_tells_id_and_revision(tmp_path):
    folder = tmp_path / "models--owner--name" / "snapshots" / "abc123"
    folder.mkdir(parents=True)
    save_file({"a.weight": torch.eye(2)}, folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.model_id, checkpoint.revision) == ("owner/name", "abc123")
