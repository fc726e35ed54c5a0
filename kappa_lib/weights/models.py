"""A model's weights, wherever they are: found, opened a tensor at a time, or loaded whole."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import snapshot_download
from torch import nn

from kappa_lib import paths
from kappa_lib.errors import AssetError, CheckpointError, InputError, KappaError
from kappa_lib.files import making, read_json, require_space, sha256
from kappa_lib.weights.assets import Asset, asset
from kappa_lib.weights.checkpoint import Checkpoint
from kappa_lib.weights.loaded import of_module
from kappa_lib.weights.safetensors_files import open_files

if TYPE_CHECKING:  # heavy, and a scan does without
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT = "smollm2-135m"
_HUB_ID = re.compile(r"^\w[\w.-]*/[\w.-]+$")
BF16_UNITS = ("avx512_bf16", "amx_bf16")  # of a processor, by PyTorch's names
# Models that come as a GGUF of four to eight bits per weight.
GGUFS = {
    DEFAULT: asset("smollm2-135m-instruct-q4_1"),
    "gemma3-270m": asset("gemma-3-270m-q4_k_m"),
    "qwen2.5-coder-0.5b": asset("qwen2-5-coder-0-5b-instruct-q4_k_m"),
    "qwen2.5-coder-1.5b": asset("qwen2-5-coder-1-5b-instruct-q4_k_m"),
}
# Commits of the models that the profiles name; any other is taken as it is today.
REVISIONS = {
    "meta-llama/Llama-3.1-8B-Instruct": "0e9e39f249a16976918f6564b8830bc894c89659",
    "meta-llama/Llama-3.2-3B-Instruct": "0cb88a4f764b7a12671c53f0838cd831a0843b95",
    "meta-llama/Llama-3.2-1B-Instruct": "9213176726f574b556790deb65791e0c5aa438b6",
    "openai/whisper-large-v3": "06f233fe06e710322aca913c1bc4249a0d71fce1",
}
_PARTS = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")


def pick_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU; nothing else is accepted.

    Raises:
        InputError: any other device. MPS in particular returns wrong small singular values.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" or (device == "cuda" and torch.cuda.is_available()):
        return torch.device(device)
    raise InputError(f"device {device!r} can't be used", "use auto, cpu, or cuda if present")


def pick_dtype(dtype: str, device: str) -> str:
    """``auto`` is bfloat16 where the device has units for its products, else float32.

    A processor without them takes such products one number at a time, slower than fp32's.
    """
    if dtype != "auto":
        return dtype
    if pick_device(device).type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = any(torch.cpu.get_capabilities().get(unit) for unit in BF16_UNITS)
    return "bfloat16" if fast else "float32"


@contextmanager
def explained(name: str | Path) -> Iterator[None]:
    """Turn whatever a library raises as it loads ``name``, a hub id or a folder, into an AssetError
    in the library's own words, which say what to do."""
    try:
        yield
    except KappaError:
        raise
    except Exception as error:  # the hub's client, its transport and readers raise many kinds
        said = str(error).strip() or type(error).__name__
        remedy = "follow what it says, or name a local folder that holds it"
        raise AssetError(f"{name}: can't be loaded: {said}", remedy) from error


@cache
def snapshot(model: str) -> Path:
    """Fetch a model at its pinned revision with the hub's client, or find it in the hub's cache.

    The folder is named after the commit. Errors are those of :func:`explained`.
    """
    with explained(model):
        folder = snapshot_download(
            model,
            revision=REVISIONS.get(model),
            allow_patterns=["*.safetensors", "*.json", "*.jinja", "tokenizer.model"],
            # The same weights again: Meta's own format, Whisper's other precision.
            ignore_patterns=["original/*", "*.fp32*"],
        )
    return Path(folder)


def weights(model: str) -> Path:
    """Folder of safetensors for a profile's ``model``, fetched where it is a model hub id.

    One of ``GGUFS`` is dequantised once, which fp32 does exactly, and kept in the cache.

    Raises:
        AssetError: the weights can't be had, or a local folder holds no ``config.json``.
    """
    if model in GGUFS:
        return _dequantised(GGUFS[model])
    folder = paths.expanded(model)
    if (folder / "config.json").is_file():
        return folder
    if folder.exists() or model.startswith((".", "/", "~")):
        raise AssetError(f"{folder}: no config.json there", "name a Hugging Face model folder")
    return snapshot(model)


def open_checkpoint(source: nn.Module | str | Path) -> Checkpoint:
    """Open a model's weights without reading its tensors.

    Args:
        source: a module, a folder or file of safetensors, a GGUF file, a model hub id, or the
            name of a pinned model.

    Raises:
        InputError: the source is none of these.
        CheckpointError: nothing in it can be read; the first problem is the message.
        AssetError: a hub id that can't be had, see :func:`snapshot`.
    """
    if not isinstance(source, nn.Module | str | Path):
        raise InputError(f"{type(source).__name__} is no model", "give a torch.nn.Module or a path")
    name = str(source)
    path = Path() if isinstance(source, nn.Module) else paths.expanded(source)
    if isinstance(source, nn.Module):
        checkpoint = of_module(source)
    elif name in GGUFS:
        checkpoint = open_files(weights(name))
        via = GGUFS[name].stored_as
        checkpoint.tensors = [replace(i, dtype=f"{via}→{i.dtype}") for i in checkpoint.tensors]
    elif path.suffix == ".gguf" and path.is_file():
        from kappa_lib.weights.gguf_file import open_gguf  # gguf is not needed otherwise

        checkpoint = open_gguf(path)
    elif path.is_dir() or (path.suffix == ".safetensors" and path.is_file()):
        checkpoint = open_files(path)
    elif not path.exists() and _HUB_ID.match(name):
        checkpoint = open_files(snapshot(name))
    else:
        what = f"{source}: not a folder, .safetensors or .gguf file, nor a hub id like owner/name"
        remedy = "check the path; pickle files (.bin, .pt) are refused, convert them to safetensors"
        raise InputError(what, remedy)
    if not checkpoint.tensors:
        empty = CheckpointError(f"{source}: holds no tensors", "name another file or folder")
        raise (checkpoint.problems or [empty])[0]
    return checkpoint


def stored_as(model: str) -> str:
    """How the weights were stored before anything here touched them, for captions."""
    if model in GGUFS:
        return GGUFS[model].stored_as
    config = read_json(weights(model) / "config.json", dict[str, object])
    # transformers renamed the key; checkpoints keep the name of their day.
    return config.get("dtype") or config.get("torch_dtype") or "an unnamed type"


def _dequantised(model: Asset) -> Path:
    source = model.pins[0]
    folder = paths.cache() / "models" / f"{Path(source.name).stem}-{source.sha256[:12]}"
    if folder.is_dir():
        return folder

    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    gguf = model.get() / source.name
    require_space(folder, 8 * source.size)  # of 32 bits instead of 4 or more
    logging.disable_progress_bar()
    how = {"gguf_file": gguf.name, "dtype": torch.float32}
    # The GGUF reader has a progress bar of its own that no setting reaches.
    with redirect_stderr(io.StringIO()):
        llm = AutoModelForCausalLM.from_pretrained(gguf.parent, **how)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers refuses to save a model that it still believes to be quantised.
    del llm.config.quantization_config
    llm.hf_quantizer = None
    with making(folder) as temporary:
        llm.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return folder


def parts(folder: Path) -> list[Path]:
    """Files of a model's folder that decide what it computes: weights, configuration, tokenizer."""
    return sorted(path for path in folder.iterdir() if path.suffix in _PARTS)


def identity(model: str) -> dict[str, str]:
    """What pins a model: the hash of the file it came from, id and revision, or files' hashes."""
    folder = weights(model)
    if folder == paths.expanded(model):
        return {"folder": folder.name, **{path.name: sha256(path) for path in parts(folder)}}
    if model in GGUFS:
        source = GGUFS[model].pins[0]
        origin = f"{source.name} with sha256 {source.sha256}, dequantised"
        return {"origin": origin, "stored_as": GGUFS[model].stored_as}
    return {"hub": model, "revision": folder.name}


def load(
    model: str, dtype: str = "float32", device: str = "cpu"
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load a profile's ``model`` with all parameters frozen, and its tokenizer.

    ``dtype`` and ``device`` may be ``auto``, see :func:`pick_dtype` and :func:`pick_device`.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    source = weights(model)
    logging.disable_progress_bar()
    kind = getattr(torch, pick_dtype(dtype, device))
    llm = AutoModelForCausalLM.from_pretrained(source, dtype=kind).requires_grad_(False).eval()
    return llm.to(pick_device(device)), tokenizer(model)


def tokenizer(model: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a profile's ``model``."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(weights(model))
