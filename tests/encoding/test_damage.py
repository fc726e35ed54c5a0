import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny import gpt2, llama

from kappa_lib.encoding import damage
from kappa_lib.encoding.damage import Batch
from kappa_lib.errors import InputError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def factors():
    return damage.Factors.of(torch.randn(6, 9, generator=generator()))


def spectrum(matrix):
    return torch.linalg.svdvals(matrix)


def apply(name, factors, kappa=1e4, seed=0):
    return damage.CHANGES[name](factors, generator(seed), kappa)


def test_flattening_leaves_norm_and_vectors_and_makes_kappa_one(factors):
    flat, before = apply("flattened", factors), factors.matrix(factors.sigma)
    s = spectrum(flat)
    torch.testing.assert_close(s, s[0].expand(6))
    torch.testing.assert_close(flat.norm(), before.norm())
    mixed = factors.left.T @ flat @ factors.right.T
    torch.testing.assert_close(mixed, torch.diag(s))


@pytest.mark.parametrize("name", ["permuted", "redrawn"])
def test_the_spectrum_stays_where_only_directions_change(factors, name):
    changed = apply(name, factors)
    torch.testing.assert_close(spectrum(changed), factors.sigma)
    assert not torch.allclose(changed, factors.matrix(factors.sigma))
    mixed = factors.left.T @ changed @ factors.right.T  # diagonal where the vectors stay
    assert torch.allclose(mixed, torch.diag(mixed.diagonal())) == (name == "permuted")


def test_redrawn_vectors_have_nothing_to_do_with_the_old(factors):
    overlaps = [
        float((apply("redrawn", factors, seed=i) * factors.matrix(factors.sigma)).sum())
        for i in range(400)
    ]
    scale = float(factors.sigma.square().sum())
    assert abs(np.mean(overlaps)) < 4 * np.std(overlaps) / 20
    assert np.std(overlaps) < 0.5 * scale


@pytest.mark.parametrize(("name", "kept"), [("truncated_10", 5), ("truncated_50", 3)])
def test_truncation_cuts_the_smallest(factors, name, kept):
    found = spectrum(apply(name, factors))
    torch.testing.assert_close(found[:kept], factors.sigma[:kept])
    assert found[kept:].max() < 1e-12


def test_surgery_changes_the_smallest_singular_value_alone(factors):
    found = spectrum(apply("surgery", factors, kappa=1e4))
    torch.testing.assert_close(found[:-1], factors.sigma[:-1])
    assert float(found[0] / found[-1]) == pytest.approx(1e4)
    assert torch.linalg.matrix_rank(apply("surgery", factors) - factors.matrix(factors.sigma)) == 1
    with pytest.raises(InputError, match="surgery only raises"):
        apply("surgery", factors, kappa=1.0)


@pytest.mark.parametrize("seed", range(4))
def test_controls_are_as_far_from_the_weights_as_the_surgery(factors, seed):
    before = factors.matrix(factors.sigma)
    distance = (apply("surgery", factors) - before).norm()
    for name in ("surgery_elsewhere", "surgery_noise"):
        torch.testing.assert_close((apply(name, factors, seed=seed) - before).norm(), distance)
    elsewhere = apply("surgery_elsewhere", factors, seed=seed)
    assert torch.linalg.matrix_rank(elsewhere - before, rtol=1e-8) == 1
    # The direction is another one than v_k.
    assert float(((elsewhere - before) @ factors.right[-1]).norm()) < 1e-12
    flat = (apply("flattened", factors) - before).norm()
    torch.testing.assert_close((apply("flattened_noise", factors, seed=seed) - before).norm(), flat)


def test_the_order_of_kappa_is_reversed_also_after_storage():
    weights = {f"t{i}": torch.randn(24, 24 + i, generator=generator(i)) for i in range(12)}
    factors = {name: damage.Factors.of(weight) for name, weight in weights.items()}
    before = {name: each.kappa for name, each in factors.items()}
    goal = damage.reversed_kappas(before)
    assert min(goal.values()) > max(before.values())
    after = {}
    for name, each in factors.items():
        stored = damage.surgery(each, generator(), goal[name]).float()
        after[name] = damage.Factors.of(stored).kappa
        assert after[name] == pytest.approx(goal[name], rel=0.02)
    found = spearmanr(list(before.values()), [after[name] for name in before]).statistic
    assert found == pytest.approx(-1)


def test_weights_are_replaced_and_restored_bit_for_bit_also_after_an_error():
    layer = torch.nn.Linear(4, 3)
    weight, before, place = layer.weight, layer.weight.detach().clone(), layer.weight.data_ptr()

    def fail():
        with damage.replaced({weight: torch.ones(3, 4, dtype=torch.float64)}):
            assert torch.equal(layer.weight, torch.ones(3, 4))
            assert layer.weight.dtype == torch.float32
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    with pytest.raises(InputError), damage.replaced({weight: torch.ones(4, 3)}):
        pass
    assert torch.equal(layer.weight, before)
    assert layer.weight.data_ptr() == place


def whole(llm, windows):
    with torch.inference_mode():
        return llm(input_ids=windows[:, :-1], use_cache=False).logits.log_softmax(-1)


def test_loss_and_divergence_against_their_definitions(llm, windows, batches):
    reference = damage.Reference(llm, batches)
    loss, kl = reference.compare()  # without a change nothing is lost
    assert loss.abs().max() == 0
    assert kl.abs().max() < 1e-6
    weight = llm.model.layers[0].self_attn.v_proj.weight
    with damage.replaced({weight: 3 * weight.detach()}):
        loss, kl = reference.compare()
        after = whole(llm, windows)
    before = whole(llm, windows)
    targets = windows[:, 1:, None]
    losses = -(after - before).gather(2, targets).mean(dim=(1, 2))
    torch.testing.assert_close(loss, losses, rtol=1e-3, atol=1e-5)
    expected = (before.exp() * (before - after)).sum(-1).mean(-1)
    torch.testing.assert_close(kl, expected, rtol=1e-3, atol=1e-6)
    assert (kl > 0).all()


def test_losses_by_type_are_those_of_a_model_changed_by_hand(llm, windows):
    def loss(model):
        with torch.no_grad():
            logits = model(windows[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    before = loss(llm).item()
    changes = {"flattened": damage.flattened, "permuted": damage.permuted}
    kinds = ["v_proj", "up_proj"]
    found = damage.losses_by_type(llm, kinds, changes, lambda: loss(llm).item(), generator())
    assert loss(llm).item() == before
    other = llama()
    for name, parameter in other.named_parameters():
        if "up_proj" in name:
            left, s, right = torch.linalg.svd(parameter.data, full_matrices=False)
            parameter.data = s.square().mean().sqrt() * left @ right
    assert found["flattened"][1] == pytest.approx(loss(other).item(), abs=1e-4)
    assert len(found["permuted"]) == 2


def test_losses_by_type_tell_two_modules_of_one_name_apart():
    llm, ids = gpt2(), torch.randint(0, 64, (2, 9), generator=generator())
    kinds, changes = ["c_fc", "attn.c_proj", "mlp.c_proj"], {"permuted": damage.permuted}

    def loss() -> float:
        with torch.no_grad():
            return llm(input_ids=ids, labels=ids).loss.item()

    found = damage.losses_by_type(llm, kinds, changes, loss, generator())["permuted"]
    assert len({loss(), *found}) == 4


def test_only_the_last_positions_count_where_a_prompt_comes_first(llm, windows):
    batch = Batch({"input_ids": windows[:, :-1]}, windows[:, -3:])
    reference = damage.Reference(llm, [batch])
    expected = whole(llm, windows)[:, -3:]
    torch.testing.assert_close(reference.base[0], expected, rtol=1e-4, atol=1e-5)
    losses = -expected.gather(2, windows[:, -3:, None]).mean(dim=(1, 2))
    torch.testing.assert_close(reference.loss, losses, rtol=1e-5, atol=1e-6)
