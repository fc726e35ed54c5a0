"""What several tests of encoding look at: the tiny model, and windows of tokens."""

import pytest
import torch
from tiny import llama

from kappa_lib.encoding.damage import Batch


@pytest.fixture(scope="module")
def llm():
    return llama()


@pytest.fixture(scope="module")
def windows():
    return torch.randint(0, 49152, (4, 17), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def batches(windows):
    """Two batches: a reference keeps what it needs of each."""
    parts = windows.split(3)
    return [Batch({"input_ids": part[:, :-1]}, part[:, 1:]) for part in parts]
