import pytest
import torch
from tiny import llama

from kappa_lib.encoding import covariance


@pytest.fixture(scope="module")
def llm():
    return llama()


@pytest.fixture(scope="module")
def windows():
    return torch.randint(0, 49152, (11, 16), generator=torch.Generator().manual_seed(1))


def inputs(windows):
    return [{"input_ids": part} for part in windows.split(4)]


def linear(part):
    return isinstance(part, torch.nn.Linear)


def test_layer_by_layer_is_the_whole_model_to_the_last_bit(llm, windows):
    decoder, found = llm.get_decoder(), []
    hooks = [
        layer.register_forward_hook(lambda _, __, x: found.append(x)) for layer in decoder.layers
    ]
    with torch.inference_mode():
        whole = decoder(input_ids=windows, use_cache=False).last_hidden_state
        with covariance.only(decoder.layers, 0, None, 0):
            decoder(input_ids=windows, use_cache=False)
        with covariance.only(decoder.layers, 1, found[2], 1):
            parts = decoder(input_ids=windows, use_cache=False).last_hidden_state
    for hook in hooks:
        hook.remove()
    assert torch.equal(parts, whole)
    assert torch.equal(found[2], found[0])
    assert not any("forward" in vars(layer) for layer in decoder.layers)


def test_streamed_moments_are_those_of_all_vectors_at_once():
    vectors = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) + 3
    moments = covariance.Moments(5, every=3)
    for part in vectors.split([7, 1, 20, 22]):
        moments.add(part)
    wide = vectors.double()
    torch.testing.assert_close(moments.mean, wide.mean(0))
    torch.testing.assert_close(moments.second, wide.T @ wide / 50)
    torch.testing.assert_close(moments.covariance, torch.cov(wide.T, correction=0))
    assert torch.equal(moments.sample, vectors[::3])


def test_inputs_of_every_linear_are_those_of_a_whole_pass(llm, windows):
    seen = {}
    hooks = [
        part.register_forward_pre_hook(lambda m, i, n=name: seen.__setitem__(n, i[0].clone()))
        for name, part in llm.named_modules()
        if linear(part)
    ]
    with torch.inference_mode():
        llm(input_ids=windows, use_cache=False)
    for hook in hooks:
        hook.remove()
    found = dict(covariance.input_moments(llm, inputs(windows), range(2)))
    assert list(found) == [0, 1]
    for number, moments in found.items():
        assert set(moments) == {
            name for name, part in llm.model.layers[number].named_modules() if linear(part)
        }
        for name, each in moments.items():
            vectors = seen[f"model.layers.{number}.{name}"].flatten(0, 1)
            assert each.count == windows.numel()
            torch.testing.assert_close(each.sample, vectors)
            torch.testing.assert_close(each.covariance, torch.cov(vectors.double().T, correction=0))


def test_query_key_and_value_share_their_moments(llm, windows):
    ((number, moments),) = covariance.input_moments(llm, inputs(windows), layers=[1])
    attention = [moments[f"self_attn.{name}_proj"] for name in "qkv"]
    assert number == 1
    assert attention[0] is attention[1] is attention[2]
    assert moments["mlp.gate_proj"] is moments["mlp.up_proj"]
    assert len({id(each) for each in moments.values()}) == 4


def test_nothing_is_left_hooked(llm, windows):
    list(covariance.input_moments(llm, inputs(windows), range(2)))
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in llm.modules())
