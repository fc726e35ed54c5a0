import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kappa_lib.encoding import information
from kappa_lib.theory.entropy import mutual_information

SPECTRA = st.lists(st.floats(0.01, 100), min_size=1, max_size=8)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(size):
    factor = draw(size, size)
    return factor @ factor.T


@pytest.mark.parametrize("shape", [(3, 6), (6, 6), (9, 6)])
def test_spectrum_and_information_are_those_of_the_output_covariance(shape):
    weight, sigma = draw(*shape, seed=1), covariance(6)
    spectrum = information.output_spectrum(weight, information.root_of_covariance(sigma))
    output = (weight @ sigma @ weight.T).numpy()
    powers = np.linalg.eigvalsh(output)[::-1][: min(shape)]
    np.testing.assert_allclose(spectrum**2, powers, rtol=1e-9)
    level = information.NOISE * np.trace(output) / min(shape)
    noisy = output + level * np.eye(len(output))
    h = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * noisy)[1]
    noise = 0.5 * len(output) * math.log(2 * math.pi * math.e * level)
    assert information.gaussian_information(spectrum) == pytest.approx(h - noise)


def test_information_of_an_isotropic_input_is_the_theory_s():
    s = np.array([3.0, 2.0, 0.5])
    level = information.NOISE * np.square(s).mean()
    expected = mutual_information(s, sigma_n=math.sqrt(level))
    assert information.gaussian_information(s) == pytest.approx(expected)


@given(SPECTRA, st.floats(0.001, 1000))
def test_the_deficit_is_free_of_scale_and_zero_only_when_flat(values, scale):
    s = np.sort(values)[::-1]
    deficit = information.information_deficit(s)
    assert information.information_deficit(scale * s) == pytest.approx(deficit, abs=1e-9)
    assert deficit >= -1e-12
    assert information.information_deficit(np.full(len(s), s[0])) == pytest.approx(0, abs=1e-12)
    if s[0] > 1.1 * s[-1]:
        assert deficit > 1e-6


def test_input_kappa_skips_directions_that_the_input_lacks():
    weight = torch.diag(torch.tensor([5.0, 2.0, 1.0], dtype=torch.float64))
    sigma = torch.diag(torch.tensor([1.0, 4.0, 0.0], dtype=torch.float64))
    spectrum = information.output_spectrum(weight, information.root_of_covariance(sigma))
    assert information.input_kappa(spectrum) == pytest.approx(5 / 4)


def test_principal_samples_have_unit_power_beside_their_noise():
    weight, inputs = draw(20, 8, seed=4), draw(4000, 8, seed=5)
    points = information.principal_samples(weight, inputs, seed=0, components=5, noise=0.25)
    assert points.shape == (4000, 5)
    assert np.square(points).mean() == pytest.approx(1.25, rel=0.02)
    clean = information.principal_samples(weight, inputs, seed=0, components=5, noise=1e-12)
    powers = np.linalg.eigvalsh(np.cov(inputs @ weight.T, rowvar=False))[-5:]
    np.testing.assert_allclose(np.var(clean, axis=0), 5 * powers / powers.sum(), rtol=1e-3)


def test_sample_entropies_of_gaussian_outputs_agree_with_the_gaussian_formula():
    points = np.random.default_rng(0).standard_normal((4000, 3))
    found = information.sample_entropies(points)
    assert found["gaussian_16"] == pytest.approx(1.5 * math.log(2 * math.pi * math.e), abs=0.05)
    assert found["knn_entropy"] == pytest.approx(found["gaussian_16"], abs=0.1)


def test_a_repeated_token_is_no_atom():
    inputs = torch.ones(50, 4, dtype=torch.float64)
    inputs[25:] = draw(25, 4)
    points = information.principal_samples(draw(6, 4, seed=1), inputs, seed=0, components=4)
    assert math.isfinite(information.sample_entropies(points)["knn_entropy"])


@pytest.fixture(scope="module")
def inputs():
    ids = torch.randint(0, 49152, (11, 16), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": part} for part in ids.split(4)]


def linear(part):
    return isinstance(part, torch.nn.Linear)


def test_streamed_moments_are_those_of_all_vectors_at_once():
    vectors = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) + 3
    moments = information.Moments(5, every=3)
    for part in vectors.split([7, 1, 20, 22]):
        moments.add(part)
    wide = vectors.double()
    torch.testing.assert_close(moments.mean, wide.mean(0))
    torch.testing.assert_close(moments.second, wide.T @ wide / 50)
    torch.testing.assert_close(moments.covariance, torch.cov(wide.T, correction=0))
    assert torch.equal(moments.sample, vectors[::3])


def test_inputs_of_every_linear_are_those_of_a_whole_pass_to_the_last_bit(llm, inputs):
    seen = {name: [] for name, part in llm.named_modules() if linear(part)}
    hooks = [
        llm.get_submodule(name).register_forward_pre_hook(lambda _, x, n=name: seen[n].append(x[0]))
        for name in seen
    ]
    with torch.inference_mode():
        for batch in inputs:
            llm(**batch, use_cache=False)
    for hook in hooks:
        hook.remove()
    found = dict(information.input_moments(llm, inputs, range(2)))
    assert list(found) == [0, 1]
    for number, moments in found.items():
        layer = llm.model.layers[number]
        assert set(moments) == {name for name, part in layer.named_modules() if linear(part)}
        for name, each in moments.items():
            vectors = torch.cat([x.flatten(0, 1) for x in seen[f"model.layers.{number}.{name}"]])
            assert each.count == len(vectors) == 11 * 16
            assert torch.equal(each.sample, vectors)
            torch.testing.assert_close(each.covariance, torch.cov(vectors.double().T, correction=0))
    assert not any("forward" in vars(part) for part in llm.modules())
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in llm.modules())


def test_query_key_and_value_share_their_moments(llm, inputs):
    ((number, moments),) = information.input_moments(llm, inputs, layers=[1])
    attention = [moments[f"self_attn.{name}_proj"] for name in "qkv"]
    assert number == 1
    assert attention[0] is attention[1] is attention[2]
    assert moments["mlp.gate_proj"] is moments["mlp.up_proj"]
    assert len({id(each) for each in moments.values()}) == 4
