"""The optimiser of a run: AdamW, or Adafactor where AdamW's states do not fit.

Adafactor (Shazeer and Stern 2018) keeps a mean for each row and column in place of AdamW's two
numbers a weight. Here it takes the learning rate as it is given, so that a profile's ``lr`` means
the same step size with either.
"""

from collections.abc import Iterable

import torch
from torch import nn
from transformers.optimization import Adafactor

WEIGHT_DECAY = 0.01


def make(
    name: str, parameters: Iterable[nn.Parameter], lr: float, device: torch.device
) -> torch.optim.Optimizer:
    """A new optimiser.

    Args:
        name: ``adamw`` or ``adafactor``.
        parameters: to train.
        lr: peak learning rate.
        device: on which the parameters are, or will be once they are sharded.
    """
    if name == "adafactor":
        return Adafactor(
            parameters,
            lr=lr,
            weight_decay=WEIGHT_DECAY,
            scale_parameter=False,
            relative_step=False,
            warmup_init=False,
        )
    # The fused update needs no temporaries as large as the gradients.
    fused = True if device.type == "cuda" else None
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=WEIGHT_DECAY, fused=fused)
