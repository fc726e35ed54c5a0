import pytest
import tiny
import torch

from kappa_lib.errors import InputError
from kappa_lib.training.warm_start import CTCHead, new_adaptor, warm_start


def setting():
    table = tiny.llama().get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    sounds = {token: torch.randn(8, 32, generator=generator) for token in (5, 6, 7, 8)}
    targets = [[5, 6, 7], [8, 5], [6, 8, 7], [7, 5, 6]]
    features = [torch.cat([sounds[t] for t in y]) for y in targets]
    return table, features, targets


OPTIONS = {"steps": 60, "batch": 4, "lr": 0.005, "seed": 0}


def test_the_adaptor_learns_to_place_the_tokens_in_order():
    table, features, targets = setting()
    adaptor = new_adaptor(32, table, seed=0)
    losses = warm_start(adaptor, table, features, targets, **OPTIONS)
    assert losses[-1] < 0.1 * losses[0]


def test_the_same_seed_gives_the_same_adaptor_and_leaves_the_global_state_alone():
    table, features, targets = setting()
    state = torch.get_rng_state()
    runs = [
        warm_start(new_adaptor(32, table, seed=3), table, features, targets, **OPTIONS)
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert torch.equal(torch.get_rng_state(), state)


def test_transcripts_longer_than_their_audio():
    table, features, _ = setting()
    with pytest.raises(InputError, match="no transcript fits"):
        warm_start(new_adaptor(32, table, 0), table, features, [[5] * 99] * 4, **OPTIONS)


def test_head_gives_log_probabilities_with_blank_first():
    table = torch.eye(3, 6)
    head = CTCHead(table)
    with torch.no_grad():
        head.blank.copy_(torch.eye(6)[5])
        output = head(torch.stack([table, table]))
    assert output.shape == (3, 2, 4)
    torch.testing.assert_close(output.exp().sum(-1), torch.ones(3, 2))
    assert output.argmax(-1)[:, 0].tolist() == [1, 2, 3]
