"""A ``kappa`` command whose model is in bfloat16, on a processor without units for that.

``python -m tools.bf16 train --profile text --arm random --seed 1 --set dtype=bfloat16`` takes every
product of bfloat16 numbers in fp32 and rounds the result, which is what such units do; torch's own
way without them is several times as slow. Only attention differs a little: between its two
products such units round the weights, too.
"""

import sys
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from kappa_lib.run import cli

aten = torch.ops.aten
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.matmul, aten.linear}
PRODUCTS |= {ATTENTION, aten._scaled_dot_product_flash_attention_for_cpu_backward}
PRODUCTS |= {aten.scaled_dot_product_attention}


class Widened(TorchDispatchMode):
    """Inside, products of bfloat16 tensors are taken in fp32, and their results rounded."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function.overloadpacket not in PRODUCTS or args[0].dtype != torch.bfloat16:
            return function(*args, **kwargs)
        args, kwargs = tree_map_only(torch.Tensor, _wide, (args, kwargs))
        result = function(*args, **kwargs)
        if function.overloadpacket is ATTENTION:  # its logarithms of sums are in fp32 anyway
            return result[0].bfloat16(), result[1]
        return tree_map_only(torch.Tensor, torch.Tensor.bfloat16, result)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


if __name__ == "__main__":
    with Widened():
        sys.exit(cli.main())
