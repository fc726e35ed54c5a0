"""A model's weights, wherever they are: found, opened a tensor at a time, or loaded whole."""

import contextlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from kappa_lib import paths
from kappa_lib.errors import AssetError, CheckpointError, InputError
from kappa_lib.files import read_json, replacing, require_space, sha256
from kappa_lib.weights import assets, hub
from kappa_lib.weights.assets import RECORD, Pin, read_record, write_record
from kappa_lib.weights.checkpoint import Checkpoint, ModuleCheckpoint
from kappa_lib.weights.safetensors_files import ShardCheckpoint

if TYPE_CHECKING:  # heavy, and a scan does without
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT = "smollm2-135m"
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
BF16_UNITS = ("avx512_bf16", "amx_bf16")  # of a processor, by PyTorch's names
# Models that come as a 4-bit GGUF, with what a safetensors copy takes in fp32, rounded up.
GGUFS = {DEFAULT: (assets.SMOLLM2, 560_000_000), "gemma3-270m": (assets.GEMMA3, 1_100_000_000)}


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


def weights(model: str) -> Path:
    """Folder of safetensors for a profile's ``model``, fetched where it is a model hub id.

    The models of ``GGUFS`` come in 4 bit. Such a one is dequantised to fp32 once (the arithmetic is
    exact in fp32) and kept in the cache, since every later load then takes a second.

    Raises:
        AssetError: the weights can't be had, or a local folder holds no ``config.json``.
    """
    if model in GGUFS:
        asset, size = GGUFS[model]
        return _dequantised(assets.language_model(asset), size)
    folder = paths.expanded(model)
    if (folder / "config.json").is_file():
        return folder
    if folder.exists() or model.startswith((".", "/", "~")):
        raise AssetError(f"{folder}: no config.json there", "name a Hugging Face model folder")
    return hub.snapshot(model)


def open_checkpoint(source: nn.Module | str | Path) -> Checkpoint:
    """Open a model's weights without reading its tensors.

    Args:
        source: a module, a folder or file of safetensors, a GGUF file, or a model hub id.

    Raises:
        InputError: the source is none of these.
        CheckpointError: nothing in it can be read; the first problem is the message.
        AssetError: a hub id that can't be had, see :func:`hub.snapshot`.
    """
    path = Path() if isinstance(source, nn.Module) else paths.expanded(source)
    if isinstance(source, nn.Module):
        checkpoint: Checkpoint = ModuleCheckpoint(source)
    elif path.is_dir() or (path.suffix == ".safetensors" and path.is_file()):
        checkpoint = ShardCheckpoint(path)
    elif path.suffix == ".gguf" and path.is_file():
        from kappa_lib.weights.gguf_file import GgufCheckpoint  # gguf is not needed otherwise

        checkpoint = GgufCheckpoint(path)
    elif not path.exists() and _HUB_ID.match(str(source)):
        checkpoint = ShardCheckpoint(hub.snapshot(str(source)))
    else:
        raise InputError(
            f"{source}: not a folder, .safetensors or .gguf file, nor a model hub id like"
            " owner/name",
            "check the path; pickle files (.bin, .pt) are refused, convert them to safetensors",
        )
    if not checkpoint.tensors:
        empty = CheckpointError(f"{source}: holds no tensors", "name another file or folder")
        raise (checkpoint.problems or [empty])[0]
    return checkpoint


def stored_as(model: str) -> str:
    """How the weights were stored before anything here touched them, for captions."""
    folder = weights(model)
    if (record := read_record(folder)) and record["stored_as"]:
        return record["stored_as"]
    config = read_json(folder / "config.json", dict[str, object])
    # transformers renamed the key; checkpoints keep the name of their day.
    return config.get("dtype") or config.get("torch_dtype") or "an unnamed type"


def _dequantised(gguf: Path, size: int) -> Path:
    source = sha256(gguf)
    folder = paths.cache() / "models" / f"{gguf.stem}-{source[:12]}"
    if (folder / RECORD).is_file():
        return folder

    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    require_space(folder, size)
    logging.disable_progress_bar()
    # The GGUF reader has a progress bar of its own that no setting reaches.
    with contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers refuses to save a model that it still believes to be quantised.
    del model.config.quantization_config
    model.hf_quantizer = None
    with replacing(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        made = sorted(temporary.iterdir())
        pins = [Pin(path.name, path.stat().st_size, sha256(path)) for path in made]
        origin = f"{gguf.name} with sha256 {source}, dequantised"
        write_record(temporary, pins, origin, stored_as=gguf.stem.split(".")[-1])
    return folder


def identity(model: str) -> dict[str, str]:
    """What pins the weights: the hash of the file they came from, or id and revision."""
    folder = weights(model)
    if folder.parent.name == "snapshots":
        return {"hub": model, "revision": folder.name}
    if record := read_record(folder):
        return {"origin": record["origin"], "stored_as": record["stored_as"]}
    shards = sorted(folder.glob("*.safetensors"))
    return {"folder": folder.name, **{shard.name: sha256(shard) for shard in shards}}


def load(
    model: str, dtype: str = "float32", device: str = "cpu"
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load a causal language model with all parameters frozen, and its tokenizer.

    Args:
        model: a profile's ``model``.
        dtype: ``float32``, ``bfloat16``, or ``auto``, see :func:`pick_dtype`.
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    source = weights(model)
    logging.disable_progress_bar()
    kind = getattr(torch, pick_dtype(dtype, device))
    llm = AutoModelForCausalLM.from_pretrained(source, dtype=kind)
    llm.requires_grad_(False)
    llm.eval()
    return llm.to(pick_device(device)), tokenizer(model)


def tokenizer(model: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a profile's ``model``."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(weights(model))
