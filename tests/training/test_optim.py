"""Adafactor where AdamW's states do not fit: small states, the learning rate as given, resumed."""

import pytest
import torch

from kappa_lib.training import optim
from kappa_lib.training.checkpoints import RunState

CPU = torch.device("cpu")


def regression(name: str, steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer, list[float]]:
    """A linear map learned from its inputs and outputs."""
    torch.manual_seed(0)
    layer, truth = torch.nn.Linear(24, 16), torch.randn(16, 24)
    optimiser = optim.make(name, layer.parameters(), 0.02, CPU)
    losses = [step(layer, optimiser, truth, number) for number in range(steps)]
    return layer, optimiser, losses


def step(layer, optimiser, truth, number: int) -> float:
    x = torch.randn(64, 24, generator=torch.Generator().manual_seed(number))
    loss = (layer(x) - x @ truth.T).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_both_learn_at_the_same_learning_rate(name):
    *_, losses = regression(name, 300)
    assert losses[-1] < 0.01 * losses[0]


def test_adafactor_keeps_a_mean_for_each_row_and_column():
    layer, optimiser, _ = regression("adafactor", 2)
    numbers = sum(v.numel() for v in optimiser.state[layer.weight].values() if torch.is_tensor(v))
    assert numbers <= 16 + 24 + 1
    _, adamw, _ = regression("adamw", 2)
    kept = adamw.state[adamw.param_groups[0]["params"][0]]
    assert kept["exp_avg"].numel() + kept["exp_avg_sq"].numel() == 2 * 16 * 24


def test_adafactors_first_step_is_as_long_as_the_learning_rate_says():
    """At a constant gradient the normalised update is one everywhere: a step of lr, as AdamW's."""
    for name in ("adamw", "adafactor"):
        weight = torch.nn.Parameter(torch.zeros(6, 5))
        optimiser = optim.make(name, [weight], 1e-3, CPU)
        weight.sum().backward()
        optimiser.step()
        torch.testing.assert_close(weight.detach(), torch.full((6, 5), -1e-3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_a_checkpoint_brings_back_every_state(name, tmp_path):
    truth = torch.randn(16, 24, generator=torch.Generator().manual_seed(9))
    layer, optimiser, _ = regression(name, 3)
    state = RunState(tmp_path, "key")
    state.start()
    state.save(3, dict(layer.named_parameters()), optimiser)
    other, second, _ = regression(name, 0)
    assert RunState(tmp_path, "key").resume(dict(other.named_parameters()), second) == 3
    losses = [
        [step(m, o, truth, n) for n in range(5)] for m, o in ((layer, optimiser), (other, second))
    ]
    assert losses[0] == losses[1]
    assert all(
        torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True)
    )
