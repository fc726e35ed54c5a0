"""Which utterances make a step, and the learning rate of a step: functions of the seed alone."""

from collections.abc import Sequence

import numpy as np

from kappa_lib.errors import InputError

WARM_UP = 0.1
FLOOR = 0.1


def batch_plan(lengths: Sequence[int], batch: int, steps: int, seed: int) -> list[list[int]]:
    """The item indices of every step, drawn epoch by epoch and grouped by length.

    Each epoch shuffles the items, sorts stretches of eight batches by length, cuts them into
    batches and shuffles those, so that a batch holds utterances of similar length while its
    composition changes from epoch to epoch. An incomplete last batch is dropped.

    Args:
        lengths: of each item, in any unit.
        batch: items a step.
        steps: number of batches.
        seed: of the shuffling.

    Raises:
        InputError: fewer items than a batch holds.
    """
    if len(lengths) < batch:
        raise InputError(
            f"{len(lengths)} training utterances do not fill a batch of {batch}",
            "raise train_utterances or lower the batch size",
        )
    plan: list[list[int]] = []
    rng = np.random.default_rng(seed)
    while len(plan) < steps:
        order = rng.permutation(len(lengths))
        stretch = 8 * batch
        epoch = []
        for start in range(0, len(order), stretch):
            part = sorted(order[start : start + stretch].tolist(), key=lambda i: lengths[i])
            epoch += [part[i : i + batch] for i in range(0, len(part), batch)]
        epoch = [b for b in epoch if len(b) == batch]
        plan += [epoch[i] for i in rng.permutation(len(epoch))]
    return plan[:steps]


def warm_up_and_decay(step: int, steps: int) -> float:
    """Factor on the peak learning rate: linear up over a tenth, then linear down to a tenth.

    Args:
        step: from 0.
        steps: of the whole run.
    """
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 1 - (1 - FLOOR) * (step - rise + 1) / max(1, steps - rise)
