import pytest
import torch

from kappa_lib.errors import InputError
from kappa_lib.spectra.perturb import changed, flat_weight, shaken_weight


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6)])
def test_flat_weight_keeps_norm_and_axes_and_has_kappa_one(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    flat = flat_weight(weight)
    assert flat.dtype == weight.dtype
    s = torch.linalg.svdvals(flat)
    assert s / s[0] == pytest.approx(torch.ones_like(s))
    assert flat.norm() == pytest.approx(weight.norm())
    # Same singular vectors: the product with the original's transpose is symmetric, positive.
    product = flat @ weight.T
    assert product == pytest.approx(product.T, abs=1e-5)
    assert torch.linalg.eigvalsh(product).min() > -1e-5


def test_shaken_weight_is_as_far_as_the_flat_one():
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    shaken = shaken_weight(weight, torch.Generator().manual_seed(2))
    distance = (flat_weight(weight) - weight).norm()
    assert (shaken - weight).norm() == pytest.approx(distance)
    assert torch.equal(shaken, shaken_weight(weight, torch.Generator().manual_seed(2)))


def test_changed_changes_one_type_and_restores_it():
    model = torch.nn.ModuleDict(
        {
            "q_proj": torch.nn.Linear(5, 5, bias=False),
            "v_proj": torch.nn.Linear(5, 3),
        }
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with changed(model, "v_proj", flat_weight) as count:
        assert count == 1
        s = torch.linalg.svdvals(model["v_proj"].weight.detach())
        assert s[0] / s[-1] == pytest.approx(1, abs=1e-5)
        assert torch.equal(model["q_proj"].weight, before["q_proj.weight"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_unknown_type_is_named():
    model = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match="'x_proj'"), changed(model, "x_proj", flat_weight):
        pass
