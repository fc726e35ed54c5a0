"""Is a tensor numerically stable: what relative noise on it costs, how noisy its gradient is.

The paper (4.3) calls tensors of low κ numerically stable and less susceptible to training noise.
"""

import math
from collections.abc import Sequence

import pandas as pd
import torch
from transformers import PreTrainedModel

from kappa_lib.encoding.cases import Batch
from kappa_lib.encoding.damage import Reference, log_probabilities, loss_of, replaced
from kappa_lib.errors import InputError
from kappa_lib.spectra.kappa_table import layer_of


def noise_cost(
    reference: Reference, name: str, size: float = 0.01, draws: int = 4, seed: int = 0
) -> dict[str, float]:
    """What Gaussian noise of a fixed size, relative to its norm, costs on a tensor.

    W becomes W + ``size``·‖W‖_F·E/‖E‖_F with E of independent normal entries. Small noise costs
    in proportion to its square, so the rank of tensors hardly depends on ``size``. Logits are
    fp32, so KL is resolved to about 1e-7.

    Returns:
        Mean ``kl`` (base ‖ now) and change of ``loss`` over draws, in nats a token; ``kl_se``, the
        former's standard error.
    """
    weight, costs = reference.llm.get_parameter(name), []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        noise *= size * weight.detach().double().norm() / noise.norm()
        with replaced({weight: weight.detach() + noise}):
            loss, kl = reference.compare(layer_of(name))
        costs.append((float(kl.mean()), float(loss.mean())))
    kl, loss = torch.tensor(costs, dtype=torch.float64).T
    error = float(kl.std()) / math.sqrt(draws) if draws > 1 else math.nan
    return {"kl": float(kl.mean()), "kl_se": error, "loss": float(loss.mean())}


def gradients(llm: PreTrainedModel, names: Sequence[str], batches: Sequence[Batch]) -> pd.DataFrame:
    """How large a tensor's gradient is, and how much it differs between windows.

    With G the mean gradient and Σ the covariance of one window's, the noise scale tr Σ/‖G‖² is
    the number of windows at which a batch's noise is as large as what it measures (McCandlish et
    al. 2018, eq. 2.9; both parts estimated without bias, A.1).

    Args:
        llm: the model, frozen, also afterwards.
        names: of the tensors.
        batches: at least two windows.

    Returns:
        A row a tensor: ``gradient`` ‖G‖‖W‖, the loss' change for a relative change along it;
        ``signal`` ‖G‖², ``noise`` tr Σ, ``noise_scale``, infinite where no signal is left.

    Raises:
        InputError: fewer than two windows.
    """
    count = sum(len(batch.targets) for batch in batches)
    if count < 2:
        raise InputError(f"{count} window to compare gradients of", "give two or more")
    parameters = dict(llm.named_parameters())
    chosen = [parameters[name] for name in names]
    sums = [torch.zeros(p.shape, dtype=torch.float64) for p in chosen]
    squares = [0.0] * len(chosen)
    try:
        for parameter in chosen:
            parameter.requires_grad_(True)
        for batch in batches:
            losses = loss_of(log_probabilities(llm, batch), batch.targets)
            for number, loss in enumerate(losses):
                found = torch.autograd.grad(loss, chosen, retain_graph=number + 1 < len(losses))
                for i, gradient in enumerate(found):
                    sums[i] += gradient
                    squares[i] += float(gradient.double().square().sum())
    finally:
        for parameter in chosen:
            parameter.requires_grad_(False)
    rows = {}
    for name, weight, total, square in zip(names, chosen, sums, squares, strict=True):
        of_mean = float((total / count).square().sum())
        noise = (square - count * of_mean) / (count - 1)
        signal = of_mean - noise / count
        rows[name] = {
            "gradient": math.sqrt(of_mean) * float(weight.detach().double().norm()),
            "signal": signal,
            "noise": noise,
            "noise_scale": noise / signal if signal > 0 else math.inf,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("tensor")
