"""LoRA beside the selected matrices, as PEFT inserts it (Hu et al. 2022, arXiv 2106.09685)."""

import torch
from transformers import PreTrainedModel

from kappa_lib.spectra.selection import Selection

# α over rank, the factor on BA. The same for every arm: where α alone is the same, an arm of a
# higher rank is scaled down, and learns less for no reason of its own.
SCALE = 2.0


def insert(llm: PreTrainedModel, selection: Selection, seed: int) -> list[str]:
    """Put a pair of matrices beside each selected one; the model is changed in place.

    B is zero, so that the model begins as it was; A is drawn from ``seed``.

    Args:
        llm: without such matrices.
        selection: of :func:`kappa_lib.spectra.selection.as_lora`; its size gives the rank.
        seed: of the draw.

    Returns:
        Names of the new parameters.
    """
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, and seldom needed

    known = dict(llm.named_parameters())
    selection.check(set(known))
    rank = selection.parameters // sum(sum(known[name].shape) for name in selection.tensors)
    config = LoraConfig(r=rank, lora_alpha=SCALE * rank, **selection.peft_targets())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, llm)
    return [name for name, _ in llm.named_parameters() if name not in known and "lora_" in name]
