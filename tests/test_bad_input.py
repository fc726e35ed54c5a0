"""Damaged input of every kind through the command: done, or one clear error; nothing harmed.

Valid material (weight files, indexes, κ tables, selections, profiles, claims, arguments) is
damaged at random places, and the command runs on it in this process. It may succeed, or it may
say what is wrong and what to do; it may not raise, and it may not change what was there.
"""

import contextlib
import functools
import io
import json
import os
import shutil
import struct
import tempfile
from pathlib import Path

import gguf
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import _TYPES as DTYPES
from safetensors.torch import load, save

from kappa_lib import paths, profiles
from kappa_lib.errors import KappaError
from kappa_lib.figures import page
from kappa_lib.run import cli
from kappa_lib.spectra import kappa_table
from kappa_lib.spectra.selection import Selection, select
from kappa_lib.speech.sources import OwnSpeech

damage = settings(
    max_examples=int(os.environ.get("KAPPA_EXAMPLES", "40")),  # thousands look for new faults
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

LAYER = "model.layers.{}.{}.weight"


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path_factory):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("KAPPA_OFFLINE", "1")
    monkeypatch.setenv("KAPPA_HOME", str(tmp_path_factory.mktemp("home")))
    # The pictures are composed, and not painted, which would take nine tenths of the time.
    unpainted = {"url": "", "alt": ""}
    monkeypatch.setattr(page, "_picture", lambda figure: unpainted)


# What is damaged, and how.

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([0, 1, -1, 2**31, 2**63, 10**400, 1.5])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", ".", "..", "a/b", "\0", "x" * 300, "\ud800", "nan", "F32", "BF16"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=4,
)


def places(value, trail=()):
    """Where a value of JSON's kinds can be damaged: the way to each of its parts."""
    yield trail
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*trail, key))


def changed(value, trail, new):
    """A copy with another part at a place; ``None`` for a function of the part drops it."""
    if not trail:
        return new(value)
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[trail[0]] = changed(value[trail[0]], trail[1:], new)
    if copy[trail[0]] is DROPPED:
        del copy[trail[0]]
    return copy


DROPPED = object()


@st.composite
def damaged(draw, value):
    """A value of JSON's kinds with one or two parts replaced, dropped, doubled or renamed."""
    for _ in range(draw(st.integers(1, 2))):
        trail = draw(st.sampled_from(list(places(value))))
        how = draw(st.sampled_from(["replace", "replace", "drop", "nest", "add"]))
        if how == "replace" or (how == "drop" and not trail):
            part = draw(anything)
            value = changed(value, trail, lambda _, part=part: part)
        elif how == "drop":
            value = changed(value, trail, lambda _: DROPPED)
        elif how == "nest":
            value = changed(value, trail, lambda old: [old])
        else:
            key, part = draw(st.text(max_size=4)), draw(anything)

            def add(old, key=key, part=part):
                if isinstance(old, dict):
                    return {**old, key: part}
                return [*old, part] if isinstance(old, list) else part

            value = changed(value, trail, add)
    return value


@st.composite
def damaged_bytes(draw, data):
    """Bytes cut, overwritten, lengthened or shortened at up to three places."""
    for _ in range(draw(st.integers(1, 3))):
        # The beginning is where the formats keep what can contradict itself.
        last = draw(st.sampled_from([len(data), min(len(data), 400), min(len(data), 40)]))
        at = draw(st.integers(0, last))
        piece = draw(st.binary(max_size=9))
        how = draw(st.sampled_from(["overwrite", "overwrite", "insert", "delete", "cut"]))
        if how == "overwrite":
            data = data[:at] + piece + data[at + len(piece) :]
        elif how == "insert":
            data = data[:at] + piece + data[at:]
        elif how == "delete":
            data = data[:at] + data[at + len(piece) :]
        else:
            data = data[:at]
    return data


@st.composite
def damaged_text(draw, text):
    """Text with pieces of YAML's and JSON's syntax put in, taken out or doubled."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        piece = draw(
            st.text("{}[]:,&*!|>'\"%@`#-?\t\n \\0aé\x00", max_size=4)
            | st.sampled_from(
                ["!!python/object:os.system ", "!!binary ", "&a [*a]", "<<: ", "2001-99-99", "0x_"]
            )
        )
        gone = draw(st.integers(0, 6))
        text = text[:at] + piece + text[at + gone :]
    return text


# What is sound before it is damaged.


@functools.cache
def tensors():
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(shape, generator=generator)

    named = {
        "self_attn.q_proj": drawn(8, 8),
        "self_attn.k_proj": drawn(4, 8).bfloat16(),
        "mlp.up_proj": drawn(12, 8).half(),
        "mlp.down_proj": drawn(8, 12).double(),
    }
    found = {LAYER.format(0, name): value for name, value in named.items()}
    found[LAYER.format(1, "self_attn.q_proj")] = drawn(6, 6).to(torch.float8_e4m3fn)
    found[LAYER.format(1, "self_attn.q_proj") + "_scale"] = torch.tensor(2.0)
    found[LAYER.format(1, "mlp.up_proj")] = torch.ones(4, 6, dtype=torch.int8)
    found["model.layers.1.mlp.up_proj.SCB"] = torch.ones(4)
    found["model.layers.1.mlp.experts.gate_up_proj"] = drawn(2, 4, 5)
    found["model.norm.weight"] = drawn(8)
    return found


@functools.cache
def packed():
    """Three layers of a bitsandbytes checkpoint, 4-bit with nested scales among them."""
    return (Path(__file__).parent / "data/packed_by_bitsandbytes_0.50.2.safetensors").read_bytes()


def header_and_data(blob):
    length = struct.unpack("<Q", blob[:8])[0]
    return json.loads(blob[8 : 8 + length]), blob[8 + length :]


def with_header(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def shards():
    """A folder of two shards and their index."""
    names = list(tensors())
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    content = {part: save({n: tensors()[n] for n in inside}) for part, inside in parts.items()}
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {name: part for part, inside in parts.items() for name in inside},
    }
    return content, index


FIELDS = {
    "general.architecture": "llama",
    "general.name": "tiny",
    "llama.block_count": 1,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": ["a", "b"],
}


def gguf_file(path, fields):
    """A GGUF with these fields, of whatever type their values have."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.kv_data[0].clear()
    for name, value in fields.items():
        kind = {bool: "bool", int: "int64", float: "float64", str: "string", list: "array"}
        # What the writer refuses: other kinds, mixed arrays, numbers too large.
        with contextlib.suppress(KeyError, ValueError, TypeError, OverflowError, struct.error):
            getattr(writer, f"add_{kind[type(value)]}")(name, value)
            writer._pack_val(value, writer.kv_data[0][name].type, add_vtype=True)
            continue
        writer.kv_data[0].pop(name, None)
    generator = np.random.default_rng(0)
    for name, rows in {"attn_q": 32, "attn_k": 16, "ffn_up": 8}.items():
        weight = generator.normal(size=(rows, 32)).astype(np.float32)
        if name == "ffn_up":
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"blk.0.{name}.weight", gguf.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"blk.0.{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@functools.cache
def gguf_bytes():
    with tempfile.TemporaryDirectory() as folder:
        gguf_file(Path(folder, "a.gguf"), FIELDS)
        return Path(folder, "a.gguf").read_bytes()


@functools.cache
def kappa():
    """A κ table of a scanned file."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "model.safetensors")
        source.write_bytes(save({k: v for k, v in tensors().items() if "experts" not in k}))
        assert scan(Path(folder), source) == 0
        return kappa_table.read(Path(folder, "out"))


@functools.cache
def kappa_bytes():
    with tempfile.TemporaryDirectory() as folder:
        kappa_table.write(kappa(), Path(folder))
        return Path(folder, "kappa.parquet").read_bytes()


# How it is judged.


def content(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(arguments, folder):
    """The command's exit status, after a look at what it said and at the files in the folder.

    Outputs go to ``out``, ``new`` and ``~nobody``. An error leaves these as they were, unless it is
    that of a scan which kept the rows of some tensors; all other files stay as they are always.
    """
    before = content(folder)
    said, complaint = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complaint):
        try:
            status = cli.main(arguments)
        except SystemExit as usage:
            status = usage.code
    text, after = complaint.getvalue(), content(folder)
    assert status in (0, cli.WRONG), text
    wrote = status == 0 or "could not be measured" in text
    if status:
        named = "\nkappa: " in f"\n{text}" and "What to do: " in text
        assert named or "Usage: kappa" in text, text
        assert len(text) < 20_000
    made = [folder / name for name in ("out", "new", "new.yaml", "~nobody")] if wrote else []
    for path in before.keys() | after.keys():
        if not any(path.is_relative_to(place) for place in made):
            assert after.get(path) == before.get(path), path
    return status


@contextlib.contextmanager
def workplace():
    """A folder with an earlier output in it, which has to survive every failure."""
    folder = Path(tempfile.mkdtemp())
    (folder / "out").mkdir()
    (folder / "out" / "selected.json").write_text("what an earlier command wrote")
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def scan(folder, source, *more):
    return run(["scan", str(source), "-o", str(folder / "out"), *more], folder)


def choose(folder, table, *more):
    return run(["select", str(table), "-o", str(folder / "out"), *more], folder)


# The properties.


@damage
@given(st.data())
def test_safetensors_headers(data):
    blob = data.draw(st.sampled_from([save(tensors()), packed()]))
    header, values = header_and_data(blob)
    with workplace() as folder:
        path = folder / "model.safetensors"
        path.write_bytes(with_header(data.draw(damaged(header)), values))
        scan(folder, path)


NAMES = """a.weight a.weight_scale a.weight_scale_inv a.SCB model.layers.0.mlp.experts.up a.bias
    layers.0.conv.weight lm_head.weight nf4.weight nf4.weight.absmax nf4.weight.quant_map
    nested.weight.nested_absmax int8.SCB int8.weight"""


@st.composite
def retold(draw, header):
    """A header that describes the same bytes as other tensors: names, dtypes, shapes."""
    header = dict(header)
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(sorted(header)))
        entry = dict(header.pop(name))
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        kind = draw(st.sampled_from(sorted(DTYPES)))
        count, rest = divmod(size, DTYPES[kind].itemsize)
        if not rest:
            first = draw(st.sampled_from([n for n in range(1, count + 1) if count % n == 0] or [0]))
            second = count // first if first else draw(st.sampled_from([0, 2**40, 2**62]))
            shapes = [[count], [first, second], [first, 1, second], [first, second, 1, 1]]
            entry |= {"dtype": kind, "shape": draw(st.sampled_from(shapes))}
        header[draw(st.sampled_from([name, *NAMES.split()]))] = entry
    return header


@damage
@given(st.data())
def test_safetensors_described_otherwise(data):
    blob = data.draw(st.sampled_from([save(tensors()), packed()]))
    header, values = header_and_data(blob)
    header.pop("__metadata__", None)
    with workplace() as folder:
        path = folder / "model.safetensors"
        path.write_bytes(with_header(data.draw(retold(header)), values))
        scan(folder, path)


@damage
@given(st.data())
def test_states_of_packed_weights(data):
    stored = load(packed())
    name = data.draw(st.sampled_from(sorted(n for n in stored if ".quant_state." in n)))
    state = json.loads(bytes(stored[name].tolist()))
    text = json.dumps(data.draw(damaged(state)))
    text = data.draw(st.just(text) | damaged_text(text))
    stored[name] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    with workplace() as folder:
        (folder / "model.safetensors").write_bytes(save(stored))
        scan(folder, folder / "model.safetensors")


@damage
@given(st.data())
def test_bytes_of_files_of_weights_and_of_tables(data):
    sound = {"a.safetensors": [save(tensors()), packed()], "a.gguf": [gguf_bytes()]}
    name = data.draw(st.sampled_from([*sound, "kappa.parquet"]))
    blob = data.draw(st.sampled_from(sound.get(name) or [kappa_bytes()]))
    with workplace() as folder:
        (folder / name).write_bytes(data.draw(damaged_bytes(blob)))
        if name in sound:
            scan(folder, folder / name)
        else:
            choose(folder, folder)


@damage
@given(st.data())
def test_shard_indexes(data):
    files, index = shards()
    with workplace() as folder:
        model = folder / "model"
        model.mkdir()
        for name, blob in files.items():
            (model / name).write_bytes(blob)
        text = json.dumps(data.draw(damaged(index)))
        text = data.draw(st.just(text) | damaged_text(text))
        (model / "model.safetensors.index.json").write_text(text, errors="surrogatepass")
        scan(folder, model)


@damage
@given(st.data())
def test_gguf_fields(data):
    fields = data.draw(damaged(FIELDS).filter(lambda value: isinstance(value, dict)))
    with workplace() as folder:
        gguf_file(folder / "a.gguf", fields)
        scan(folder, folder / "a.gguf")


@damage
@given(st.data())
def test_kappa_tables(data):
    table = kappa()
    records = data.draw(damaged(json.loads(table.to_json(orient="records"))))
    attrs = data.draw(st.just(table.attrs) | damaged(table.attrs))
    with workplace() as folder:
        try:
            frame = pd.DataFrame(records)
            arrow = pa.Table.from_pandas(frame, preserve_index=False)
            text = json.dumps(attrs).encode(errors="surrogatepass")
            path = folder / "kappa.parquet"
            pq.write_table(arrow.replace_schema_metadata({b"kappa_lib": text}), path)
        except (ValueError, TypeError, OverflowError, pa.ArrowException, AttributeError):
            return  # nothing that a Parquet file could hold
        for arm in ("selected", "random_like_selected", "mlp"):
            choose(folder, path, "--arm", arm)


@damage
@given(st.data())
def test_finished_rows(data):
    with workplace() as folder:
        path = folder / "model.safetensors"
        path.write_bytes(save({"model.layers.0.a.weight": torch.eye(3)}))
        assert scan(folder, path) == 0
        rows = folder / "out" / "kappa.rows.jsonl"
        row = json.loads(rows.read_text())
        text = json.dumps(data.draw(damaged(row)))
        rows.write_text(data.draw(st.just(text) | damaged_text(text)) + "\n", errors="replace")
        scan(folder, path)


@functools.cache
def profile_values():
    path = paths.DATA / "profiles" / "smoke.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@damage
@given(st.data())
def test_profiles(data):
    with workplace() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAPPA_RESULTS", str(folder / "results"))
        text = yaml.safe_dump(profile_values())
        damaged_values = damaged(profile_values()).map(lambda v: yaml.dump(v))
        text = data.draw(damaged_values | damaged_text(text))
        (folder / "smoke.yaml").write_text(text, encoding="utf-8", errors="replace")
        with contextlib.suppress(KappaError):
            profiles.load(folder / "smoke.yaml")


@damage
@given(st.data())
def test_settings(data):
    key = data.draw(st.sampled_from([*profile_values(), "", " ", "steps ", "nö"]))
    value = data.draw(
        anything.map(lambda v: yaml.dump(v, default_flow_style=True))
        | damaged_text(str(profile_values().get(key, "")))
    )
    with contextlib.suppress(KappaError):
        profiles.load("smoke", **dict([profiles.parse_setting(f"{key}={value}")]))


@functools.cache
def selection():
    return select(kappa(), "selected", 2)


@damage
@given(st.data())
def test_selections(data):
    with workplace() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAPPA_RESULTS", str(folder / "results"))
        path = folder / "results" / "smoke" / "selections" / "selected.json"
        path.parent.mkdir(parents=True)
        text = json.dumps(data.draw(damaged(vars(selection()))))
        path.write_text(data.draw(st.just(text) | damaged_text(text)), errors="replace")
        with contextlib.suppress(KappaError):
            Selection.load(path)


SPEECH = """file_name,text,speaker
a.wav,the cat sat still,1
b.wav,he saw a red boat,2
c.wav,"rain, all day",1
"""


@damage
@given(st.data())
def test_tables_of_speech(data):
    with workplace() as folder:
        speech = folder / "mine"
        speech.mkdir()
        for name in "abc":
            soundfile.write(speech / f"{name}.wav", np.zeros(800) + 0.1, 16_000)
        (speech / "metadata.csv").write_bytes(data.draw(damaged_bytes(SPEECH.encode())))
        with contextlib.suppress(KappaError):
            OwnSpeech(str(speech), "en", "text").items("mine", {"train": 1, "test": 1}, seed=0)


WORDS = {
    "scan": ["--device", "--method", "--include", "--exclude"],
    "select": ["--arm", "--count", "--share", "--seed"],
    "report": ["--profile"],
}
VALUES = """nan inf -inf 0 -0.0 -1 1 2 0.5 1e400 1e-400 none auto cpu svd float16 float8_e4m3fn
    float8_e8m0fnu float4_e2m1fn_x2 complex64 int8 __class__ selected all smoke steps=2 = KEY={
    steps=: : * [!a ~nobody/x a/b ../x profile=../x arms=[x] arms=[../x] seeds=[-1] model=~nobody
    encoder=.. lr=.inf lr=.nan train_utterances={en:} corpora=[] share=1"""
values = st.sampled_from(VALUES.split()) | st.text(max_size=5)


@damage
@given(st.data())
def test_arguments(data):
    command = data.draw(st.sampled_from(sorted(WORDS)))
    pairs = st.tuples(st.sampled_from(WORDS[command]), values)
    words = [word for pair in data.draw(st.lists(pairs, max_size=3)) for word in pair]
    with workplace() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAPPA_RESULTS", str(folder / "results"))
        patch.chdir(folder)
        (folder / "model.safetensors").write_bytes(save({LAYER.format(0, "a"): torch.eye(3)}))
        (folder / "kappa.parquet").write_bytes(kappa_bytes())
        places = [folder / "new" / "er", folder / "kappa.parquet", folder / "kappa.parquet" / "x"]
        places += [folder / "out", folder / ("x" * 300), "~nobody/x", "\0", "/proc/nowhere"]
        out = ["-o", str(data.draw(st.sampled_from(places)))]
        source = {"scan": "model.safetensors", "select": "kappa.parquet"}.get(command)
        if source:
            good = st.sampled_from([source, source, source, str(folder)])
            source = [data.draw(good | values)]
        run([command, *(source or []), *(out if source else []), *words], folder)
