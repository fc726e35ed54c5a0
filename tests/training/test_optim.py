"""An optimiser is resumed; the rate and the utterances of each step."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kappa_lib.errors import InputError
from kappa_lib.training import optim
from kappa_lib.training.checkpoints import RunState
from kappa_lib.training.optim import batch_plan, rate

CPU = torch.device("cpu")


def regression(steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer, torch.Tensor]:
    """A linear map learned from its inputs and outputs."""
    torch.manual_seed(0)
    layer, truth = torch.nn.Linear(24, 16), torch.randn(16, 24)
    optimiser = optim.adamw(layer.parameters(), 0.02, CPU)
    for number in range(steps):
        step(layer, optimiser, truth, number)
    return layer, optimiser, truth


def step(layer, optimiser, truth, number: int) -> float:
    x = torch.randn(64, 24, generator=torch.Generator().manual_seed(number))
    loss = (layer(x) - x @ truth.T).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def test_a_checkpoint_brings_back_every_state(tmp_path):
    layer, optimiser, truth = regression(3)
    state = RunState(tmp_path, "key")
    state.start()
    state.save(3, dict(layer.named_parameters()), optimiser)
    other, second, _ = regression(0)
    assert RunState(tmp_path, "key").resume(dict(other.named_parameters()), second) == 3
    losses = [
        [step(m, o, truth, n) for n in range(5)] for m, o in ((layer, optimiser), (other, second))
    ]
    assert losses[0] == losses[1]
    assert all(
        torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True)
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 300), min_size=8, max_size=90),
    st.integers(1, 8),
    st.integers(0, 50),
)
def test_an_epoch_uses_no_item_twice(lengths, batch, seed):
    epoch = len(lengths) // batch
    plan = batch_plan(lengths, batch, epoch, seed)
    items = [i for step in plan for i in step]
    assert len(plan) == epoch
    assert all(len(step) == batch for step in plan)
    assert len(set(items)) == len(items)


def test_a_longer_plan_begins_with_the_shorter_one_and_batches_hold_similar_lengths():
    lengths = [(7 * i) % 101 for i in range(96)]
    plan = batch_plan(lengths, 4, 24, 0)
    assert plan[:12] == batch_plan(lengths, 4, 12, 0) != batch_plan(lengths, 4, 12, 1)
    spreads = [max(lengths[i] for i in step) - min(lengths[i] for i in step) for step in plan]
    assert sum(spreads) / len(spreads) < 20


@pytest.mark.parametrize(("items", "batch"), [(18, 8), (60, 8), (63, 32)])
def test_what_an_epoch_drops_is_not_always_the_longest(items, batch):
    """Fewer than eight batches are sorted as one stretch, whose end is its longest items."""
    plan = batch_plan(list(range(items)), batch, 400, 0)
    assert {i for step in plan for i in step} == set(range(items))
    with pytest.raises(InputError, match=f"batch of {items + 1}"):
        batch_plan(list(range(items)), items + 1, 1, 0)


def test_learning_rate_rises_to_its_peak_and_ends_at_a_tenth_or_stays():
    factors, constant = (
        [rate(schedule, step, 100) for step in range(100)] for schedule in ("decaying", "constant")
    )
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == pytest.approx(1)
    assert factors[-1] == pytest.approx(0.1)
    assert all(a < b for a, b in pairwise(factors[:10]))
    assert all(a > b for a, b in pairwise(factors[9:]))
    assert constant[:10] == factors[:10]
    assert set(constant[9:]) == {1.0}
