"""bf16 weights that train in fp32, against plain fp32."""

import pytest
import tiny_paper
import torch

from kappa_lib.training.model import SpeechLLM, autocast, gradient_checkpointing
from kappa_lib.training.warm_start import new_adaptor

NAMES = ["model.layers.1.mlp.up_proj.weight", "model.layers.2.self_attn.q_proj.weight"]
TEXTS = ["the cat sat", "he saw a red boat"]


def speech_llm(dtype: torch.dtype) -> tuple[SpeechLLM, list[torch.nn.Parameter]]:
    llm = tiny_paper.llama().to(dtype).eval()
    adaptor = new_adaptor(32, llm.get_input_embeddings().weight, seed=0)
    model = SpeechLLM(llm, tiny_paper.tokenizer(), adaptor)
    return model, model.unfreeze(NAMES)


def features() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 32, generator=generator) for n in (24, 40)]


def gradients(model: SpeechLLM, chosen: list[torch.nn.Parameter]) -> tuple[float, list]:
    loss, _ = model(features(), TEXTS)
    loss.backward()
    return loss.item(), [p.grad for p in (*chosen, *model.adaptor.parameters())]


def test_only_what_trains_is_fp32_and_its_gradients_are_those_of_fp32_to_bf16s_precision():
    mixed, chosen = speech_llm(torch.bfloat16)
    wide = {n for n, p in mixed.llm.named_parameters() if p.dtype == torch.float32}
    assert wide == set(NAMES)
    loss, found = gradients(mixed, chosen)
    expected_loss, expected = gradients(*speech_llm(torch.float32))
    assert loss == pytest.approx(expected_loss, rel=2e-3)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() <= 0.05 * theirs.norm() + 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_processor_recomputes_nothing_and_fp32_is_left_alone(dtype):
    model, _ = speech_llm(dtype)
    with gradient_checkpointing(model.llm):
        assert not model.llm.is_activation_checkpointing
        assert not model.llm.training
    with autocast(model.llm):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    # Any device that is not a processor:
    with gradient_checkpointing(model.llm.to("meta")):
        assert model.llm.training == (dtype == torch.bfloat16)


def test_recomputed_layers_give_the_same_gradients_bit_for_bit_and_keep_less():
    sizes, results = [], []
    for recomputed in (False, True):
        model, chosen = speech_llm(torch.bfloat16)
        held: dict[int, int] = {}

        def pack(tensor: torch.Tensor, held: dict[int, int] = held) -> torch.Tensor:
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
            return tensor

        if recomputed:  # as gradient_checkpointing does on a GPU
            model.llm.activation_checkpointing_enable()
            model.llm.train()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss, _ = model(features(), TEXTS)
        sizes.append(sum(held.values()))
        loss.backward()
        results.append([p.grad for p in chosen])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert sizes[1] < 0.6 * sizes[0]
