"""What the model loses when a tensor is changed: loss and KL on fixed windows of text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from kappa_lib.errors import InputError
from kappa_lib.files import fingerprint
from kappa_lib.spectra.kappa_table import types_of
from kappa_lib.spectra.spectrum import singular_vectors
from kappa_lib.theory.checks import as_matrix

# By how much a surgery spreads the new κ, as a power of how far the old ones spread. Small, so
# that the smallest σ stay well above the rounding of fp32 storage.
SPREAD = 0.1


@dataclass(frozen=True)
class Batch:
    """Windows of texts, all of one length, on which a model is run."""

    inputs: dict[str, Tensor]  # arguments of the decoder's call, windows first
    targets: Tensor  # (windows, tokens) ids, which the last positions are to predict

    @property
    def key(self) -> str:
        """Fingerprint of all that the model is given."""
        tensors = {**self.inputs, "targets": self.targets}
        return fingerprint({k: sha256(v.numpy().tobytes()).hexdigest() for k, v in tensors.items()})


@dataclass(frozen=True)
class Factors:
    """W = U diag(σ) Vᵀ in float64: ``left`` (m, k), ``sigma`` (k,) descending, ``right`` (k, n)."""

    left: Tensor
    sigma: Tensor
    right: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> "Factors":
        """The thin singular value decomposition of a matrix (m, n), k its rank."""
        left, sigma, right = singular_vectors(as_matrix(weight).double())
        return cls(left, sigma, right.T)

    def matrix(self, sigma: Tensor) -> Tensor:
        """U diag(``sigma``) Vᵀ, (m, n) float64."""
        return self.left * sigma @ self.right

    @property
    def kappa(self) -> float:
        """σ₁/σ_k."""
        return float(self.sigma[0] / self.sigma[-1])


def reversed_kappas(kappas: Mapping[str, float]) -> dict[str, float]:
    """New κ for each tensor, all above the largest old one, in exactly the opposite order.

    κ' = 2 κ_max (κ_max/κ)^SPREAD. Since every κ rises, shrinking σ_k alone reaches it.
    """
    largest = max(kappas.values())
    return {name: 2 * largest * (largest / kappa) ** SPREAD for name, kappa in kappas.items()}


# Each change takes the factors, a generator on the CPU and, for surgery, the κ to reach; it
# returns the changed matrix, (m, n) float64.
Change = Callable[[Factors, torch.Generator, float], Tensor]


def flattened(w: Factors, generator: torch.Generator, kappa: float) -> Tensor:
    """All σ equal at the same norm: κ = 1, the maximum of Theorem 1."""
    return w.matrix(torch.full_like(w.sigma, float(w.sigma.square().mean().sqrt())))


def permuted(w: Factors, generator: torch.Generator, kappa: float) -> Tensor:
    """The same σ in random order: spectrum and κ stay, what is amplified does not."""
    return w.matrix(w.sigma[torch.randperm(len(w.sigma), generator=generator)])


def redrawn(w: Factors, generator: torch.Generator, kappa: float) -> Tensor:
    """Random singular vectors with the same spectrum: nothing that was learned but σ is left."""
    sides = []
    for shape in (w.left.shape, w.right.T.shape):
        gauss = torch.randn(shape, generator=generator, dtype=torch.float64)
        basis, triangle = torch.linalg.qr(gauss)
        # With the signs of R's diagonal the basis is uniformly distributed (Mezzadri 2007).
        sides.append(basis * triangle.diagonal().sign())
    return sides[0] * w.sigma @ sides[1].T


def truncated(share: float) -> Change:
    """The change that sets the smallest ``share`` of the σ to zero (at least one)."""

    def change(w: Factors, generator: torch.Generator, kappa: float) -> Tensor:
        sigma = w.sigma.clone()
        sigma[-max(1, round(share * len(sigma))) :] = 0
        return w.matrix(sigma)

    return change


def surgery(w: Factors, generator: torch.Generator, kappa: float) -> Tensor:
    """σ_k alone shrunk to σ₁/``kappa``, a rank-one change; InputError below the present κ."""
    if kappa < w.kappa:
        raise InputError(f"κ = {kappa:.4g} is below {w.kappa:.4g}", "surgery only raises κ")
    sigma = w.sigma.clone()
    sigma[-1] = sigma[0] / kappa
    return w.matrix(sigma)


def elsewhere(w: Factors, generator: torch.Generator, kappa: float) -> Tensor:
    """Control for surgery: as much taken off a random singular value other than σ_k."""
    place = int(torch.randint(len(w.sigma) - 1, (1,), generator=generator))
    sigma = w.sigma.clone()
    sigma[place] -= w.sigma[-1] - w.sigma[0] / kappa
    return w.matrix(sigma)


def noisy_as(other: Change) -> Change:
    """Control for a change: Gaussian noise as far from W in Frobenius norm."""

    def change(w: Factors, generator: torch.Generator, kappa: float) -> Tensor:
        here = w.matrix(w.sigma)
        noise = torch.randn(here.shape, generator=generator, dtype=torch.float64)
        distance = (other(w, generator, kappa) - here).norm()
        return here + noise * (distance / noise.norm())

    return change


CHANGES: dict[str, Change] = {
    "flattened": flattened,
    "flattened_noise": noisy_as(flattened),
    "permuted": permuted,
    "redrawn": redrawn,
    "truncated_10": truncated(0.1),
    "truncated_50": truncated(0.5),
    "surgery": surgery,
    "surgery_elsewhere": elsewhere,
    "surgery_noise": noisy_as(surgery),
}
SURGERIES = ("surgery", "surgery_elsewhere", "surgery_noise")


@contextmanager
def replaced(weights: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Within the block the parameters hold other values; afterwards the very same storage again.

    The values have the parameters' shapes and are rounded to their dtypes.
    """
    kept = {parameter: parameter.data for parameter in weights}
    try:
        for parameter, value in weights.items():
            if value.shape != parameter.shape:
                raise InputError(f"{tuple(value.shape)} for {tuple(parameter.shape)}", "transpose")
            parameter.data = value.to(parameter.dtype)
        yield
    finally:
        for parameter, data in kept.items():
            parameter.data = data


def log_probabilities(llm: PreTrainedModel, batch: Batch) -> Tensor:
    """(windows, tokens, vocabulary) fp32 log-probabilities where a batch has targets."""
    hidden = llm.get_decoder()(**batch.inputs, use_cache=False).last_hidden_state
    logits = llm.get_output_embeddings()(hidden[:, -batch.targets.shape[1] :])
    return functional.log_softmax(logits.float(), dim=-1)


def loss_of(predicted: Tensor, targets: Tensor) -> Tensor:
    """(windows,) mean cross-entropy, nats per token."""
    return functional.nll_loss(predicted.transpose(1, 2), targets, reduction="none").mean(dim=1)


class Reference:
    """The unchanged model on fixed windows, to which a changed one is compared.

    Keeps the log-probabilities (tokens × vocabulary × 4 bytes).
    """

    @torch.inference_mode()
    def __init__(self, llm: PreTrainedModel, batches: Sequence[Batch]) -> None:
        self.llm, self.batches = llm, batches
        self.base = [log_probabilities(llm, batch) for batch in batches]
        found = [loss_of(p, b.targets) for p, b in zip(self.base, batches, strict=True)]
        self.loss = torch.cat(found)

    @torch.inference_mode()
    def compare(self) -> tuple[Tensor, Tensor]:
        """Change of the loss and KL(base ‖ now) of each window, (windows,), nats per token."""
        losses, divergences = [], []
        for base, batch in zip(self.base, self.batches, strict=True):
            now = log_probabilities(self.llm, batch)
            losses.append(loss_of(now, batch.targets))
            # Window by window: the exponential of the base would be a third array of this size.
            divergences += [
                functional.kl_div(n, b, reduction="batchmean", log_target=True)
                for n, b in zip(now, base, strict=True)
            ]
        return torch.cat(losses) - self.loss, torch.stack(divergences)


def noise_cost(
    reference: Reference, name: str, size: float = 0.01, draws: int = 4, seed: int = 0
) -> float:
    """KL(base ‖ now) that Gaussian noise costs on a tensor: mean over draws, nats per token.

    W becomes W + ``size``·‖W‖_F·E/‖E‖_F with E of independent normal entries. Small noise costs
    in proportion to its square, so the rank of tensors hardly depends on ``size``. Logits are
    fp32, so KL is resolved to about 1e-7. The paper (4.3) calls tensors of low κ numerically
    stable and less susceptible to training noise.
    """
    weight, costs = reference.llm.get_parameter(name), []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        noise *= size * weight.detach().double().norm() / noise.norm()
        with replaced({weight: weight.detach() + noise}):
            costs.append(float(reference.compare()[1].mean()))
    return sum(costs) / draws


def losses_by_type(
    llm: nn.Module,
    kinds: Sequence[str],
    changes: Mapping[str, Change],
    loss: Callable[[], float],
    generator: torch.Generator,
) -> dict[str, list[float]]:
    """Change → loss, in nats per token, with a module type's matrices changed, type by type.

    ``loss`` measures the model as it is; ``changes`` are without surgery.
    """
    found: dict[str, list[float]] = {name: [] for name in changes}
    weights = dict(llm.named_parameters())
    types = types_of(weights)
    for kind in kinds:
        matrices = [p for n, p in weights.items() if p.ndim == 2 and types[n] == kind]
        factors = [Factors.of(matrix.detach()) for matrix in matrices]
        for name, change in changes.items():
            new = [change(of, generator, 1.0) for of in factors]
            with replaced(dict(zip(matrices, new, strict=True))):
                found[name].append(loss())
    return found
