"""How a run descends: AdamW, and the learning rate and utterances of each step.

The paper gives no setting of its optimiser; where each of ours comes from stands beside it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from kappa_lib.errors import InputError

WEIGHT_DECAY = 0.01  # the default of torch.optim.AdamW
CLIP = 1.0  # norm of the whole gradient; the default of transformers' TrainingArguments
WARM_UP = 0.1  # share of the steps; the default with which BERT is fine-tuned (run_classifier.py)
FLOOR = 0.1  # last rate, of the peak's; chosen, not tuned


def adamw(parameters: Iterable[Any], lr: float, device: torch.device) -> torch.optim.AdamW:
    """A new optimiser of parameters on ``device``, or groups of them, at the peak rate ``lr``."""
    # The fused update needs no temporaries as large as the gradients.
    fused = True if device.type == "cuda" else None
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=WEIGHT_DECAY, fused=fused)


def batch_plan(lengths: Sequence[int], batch: int, steps: int, seed: int) -> list[list[int]]:
    """The item indices of every step, drawn epoch by epoch and grouped by length.

    Each epoch shuffles the items, sorts stretches of eight batches by length, cuts them into
    batches and shuffles those, so that a batch holds utterances of similar length while its
    composition changes from epoch to epoch. An incomplete last batch is dropped; of eight batches
    and more those are the longest items of the last stretch, which so come less often: of profile
    ``turn``, 100 items in batches of 8, the longest quarter 8.4 times where others come 10 times.

    ``lengths`` may be in any unit. InputError where there are fewer items than a batch holds.
    """
    if len(lengths) < batch:
        what = f"{len(lengths)} training utterances do not fill a batch of {batch}"
        raise InputError(what, "raise train_utterances, or lower batch and warm_batch")
    plan: list[list[int]] = []
    rng = np.random.default_rng(seed)
    while len(plan) < steps:
        order = rng.permutation(len(lengths))
        stretch = 8 * batch
        if len(order) < stretch:  # what is dropped after sorting would always be the longest
            order = order[: len(order) // batch * batch]
        epoch = []
        for start in range(0, len(order), stretch):
            part = sorted(order[start : start + stretch].tolist(), key=lambda i: lengths[i])
            epoch += [part[i : i + batch] for i in range(0, len(part), batch)]
        epoch = [b for b in epoch if len(b) == batch]
        plan += [epoch[i] for i in rng.permutation(len(epoch))]
    return plan[:steps]


def rate(schedule: str, step: int, steps: int) -> float:
    """Factor on the peak learning rate in a ``step``, numbered from 0: linear up over a tenth of
    the steps, then ``constant``, or ``decaying`` linearly to a tenth at the last step."""
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    if schedule == "constant":
        return 1.0
    return 1 - (1 - FLOOR) * (step - rise + 1) / max(1, steps - rise)
