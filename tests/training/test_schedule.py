from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kappa_lib.errors import InputError
from kappa_lib.training.schedule import batch_plan, warm_up_and_decay


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


def test_a_longer_plan_begins_with_the_shorter_one_and_seeds_differ():
    lengths = list(range(40))
    assert batch_plan(lengths, 4, 30, 0)[:12] == batch_plan(lengths, 4, 12, 0)
    assert batch_plan(lengths, 4, 12, 0) != batch_plan(lengths, 4, 12, 1)


def test_batches_hold_items_of_similar_length():
    lengths = [(7 * i) % 101 for i in range(96)]
    plan = batch_plan(lengths, 4, 24, 0)
    spreads = [max(lengths[i] for i in step) - min(lengths[i] for i in step) for step in plan]
    assert sum(spreads) / len(spreads) < 20


def test_too_few_items_for_a_batch():
    with pytest.raises(InputError, match="batch of 8"):
        batch_plan([1, 2, 3], 8, 1, 0)


def test_learning_rate_rises_to_its_peak_and_ends_at_a_tenth():
    factors = [warm_up_and_decay(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == pytest.approx(1)
    assert factors[-1] == pytest.approx(0.1)
    assert all(a < b for a, b in pairwise(factors[:10]))
    assert all(a > b for a, b in pairwise(factors[9:]))
