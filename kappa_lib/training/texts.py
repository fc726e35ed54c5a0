"""The general texts on which forgetting is measured: three kinds, carried along, pinned by hash.

Each is an excerpt of about 24,000 characters; ``texts.json`` beside them names source, licence
and SHA-256, and ``tools/texts.py`` says how they were cut.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kappa_lib.errors import AssetError, InputError
from kappa_lib.files import fingerprint, read_json, sha256

FOLDER = Path(__file__).parent.parent / "data" / "texts"
MANIFEST = FOLDER / "texts.json"
KINDS = ("english", "german", "technical")
WINDOW = 256  # predictions a window


def about() -> dict[str, dict[str, Any]]:
    """Kind → its ``source``, ``licence``, ``credit`` and ``sha256``."""
    return read_json(MANIFEST)


def read(kind: str) -> str:
    """One of the texts, its bytes checked.

    Raises:
        AssetError: the file is missing or does not have its pinned bytes.
    """
    path, pinned = FOLDER / f"{kind}.txt", about()[kind]["sha256"]
    found = sha256(path) if path.is_file() else "no file"
    if found != pinned:
        raise AssetError(
            f"{path}: not the pinned text\n  expected sha256 {pinned}\n  found    {found}",
            "restore it with git or install kappa_lib again; git must not convert its line ends",
        )
    return path.read_bytes().decode()


def windows(tokenizer: PreTrainedTokenizerBase, tokens: int) -> dict[str, Tensor]:
    """The beginning of each text as token ids, in windows that are read on their own.

    Args:
        tokenizer: the language model's.
        tokens: predictions for each kind, rounded up to whole windows of 256.

    Returns:
        Kind → (windows, 257) token ids; the last id of a window is predicted only.

    Raises:
        InputError: a text has fewer tokens.
    """
    count = -(-tokens // WINDOW)
    found = {}
    for kind in KINDS:
        ids = tokenizer(read(kind), add_special_tokens=False)["input_ids"]
        if len(ids) < count * (WINDOW + 1):
            most = len(ids) // (WINDOW + 1) * WINDOW
            raise InputError(
                f"text_tokens={tokens} asks for more {kind} text than there is",
                f"at most {most} with this tokenizer",
            )
        found[kind] = torch.tensor(ids[: count * (WINDOW + 1)]).reshape(count, WINDOW + 1)
    return found


def identity(tokenized: dict[str, Tensor]) -> str:
    """Hash of what is measured on: the texts' hashes and their token ids."""
    hashes = {kind: entry["sha256"] for kind, entry in about().items()}
    return fingerprint([hashes, {kind: ids.tolist() for kind, ids in tokenized.items()}])
