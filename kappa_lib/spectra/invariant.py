"""κ of what no change of gauge touches, beside which κ of a matrix is a choice of coordinates."""

import copy

import pandas as pd
import torch
from torch import Tensor, nn

from kappa_lib.spectra import gauge
from kappa_lib.spectra.scan import scan


@torch.no_grad()
def invariant_kappa(llm: nn.Module) -> pd.Series:
    """κ of what no change of gauge touches and a matrix takes part in, by the matrix's name.

    Of value and output that is the product O_q V_h of a query head with its value head, of query
    and key Q_qᵀ K_h (Elhage et al. 2021), each with the norm's gain in what reads the norm: the
    geometric mean over the query heads, the same for both partners; κ of a product of rank d_h is
    that of its d_h singular values. Of the gate it is the matrix with the gain; ``up`` and
    ``down`` are as they are in the balanced gauge. Errors are those of ``gauge.symmetries``.
    """
    gauge.of_model(llm)  # refuses what has other symmetries
    found: dict[str, float] = {}
    for number, layer in enumerate(llm.get_decoder().layers):
        at = f"model.layers.{number}."
        gain, attention = layer.input_layernorm.weight.double(), layer.self_attn
        q, k, v = (getattr(attention, f"{x}_proj").weight.double() * gain for x in "qkv")
        pairs = llm.config.num_key_value_heads
        for names, first, second in (("qk", q, k), ("ov", attention.o_proj.weight.double().T, v)):
            product = _of_products(first, second, llm.config.num_attention_heads, pairs)
            found |= {f"{at}self_attn.{x}_proj.weight": product for x in names}
        gate = layer.mlp.gate_proj.weight.double() * layer.post_attention_layernorm.weight.double()
        singular = torch.linalg.svdvals(gate)
        found[f"{at}mlp.gate_proj.weight"] = (singular[0] / singular[-1]).item()
    balanced = copy.deepcopy(llm)
    gauge.balance(balanced)
    table = scan(balanced, include=["*.up_proj.*", "*.down_proj.*"])
    found |= table.set_index("tensor")["kappa"].to_dict()
    return pd.Series(found, name="invariant_kappa").rename_axis("tensor")


def _of_products(first: Tensor, second: Tensor, heads: int, pairs: int) -> float:
    """Geometric mean over query heads of κ(F_qᵀ S_h), from (heads · d, n) and (pairs · d, n)."""
    f, s = first.unflatten(0, (heads, -1)), second.unflatten(0, (pairs, -1))
    # F = (Q R)ᵀ and S likewise: the product has the singular values of R_F R_Sᵀ, d × d.
    f, s = (torch.linalg.qr(x.mT)[1] for x in (f, s))
    singular = torch.linalg.svdvals(f @ s.repeat_interleave(heads // pairs, dim=0).mT)
    return (singular[:, 0] / singular[:, -1]).log().mean().exp().item()
