"""The general texts on which forgetting is measured: three kinds, carried along, pinned by hash.

Each is an excerpt of about 24,000 characters; ``texts.json`` beside them names source, licence
and SHA-256, and ``tools/texts.py`` says how they were cut.
"""

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kappa_lib.errors import InputError
from kappa_lib.files import fingerprint
from kappa_lib.text import about, carried

KINDS = ("english", "german", "technical")
WINDOW = 256  # predictions a window


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
        ids = tokenizer(carried(kind), add_special_tokens=False)["input_ids"]
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
    hashes = {kind: about()[kind]["sha256"] for kind in KINDS}
    return fingerprint([hashes, {kind: ids.tolist() for kind, ids in tokenized.items()}])
