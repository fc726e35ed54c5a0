import tiny
import torch

from benchmarks.steps import plain
from kappa_lib.training.model import SpeechLLM
from kappa_lib.training.warm_start import new_adaptor


def test_both_steps_have_one_loss_and_one_gradient():
    llm = tiny.llama()
    adaptor = new_adaptor(6, llm.get_input_embeddings().weight, 0)
    model = SpeechLLM(llm, tiny.tokenizer(), adaptor)
    model.unfreeze(["model.layers.0.self_attn.v_proj.weight"])
    speech = [torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) for n in (9, 17, 4)]
    texts = ["one", "and three words", "two of them"]
    gradients = []
    for loss in (model.loss(speech, texts)[0], plain(model, speech, texts)):
        model.zero_grad()
        loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        gradients[-1].append(loss.detach())
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
