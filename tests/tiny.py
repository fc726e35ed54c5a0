"""A small real setting for training tests: the default tokenizer, a random two-layer Llama."""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
)

from kappa_lib import profiles
from kappa_lib.profiles import Profile
from kappa_lib.run import stages
from kappa_lib.training import evaluation
from kappa_lib.training.checkpoints import read_metrics
from kappa_lib.training.trainer import train
from kappa_lib.weights import models

SMALL = {
    "share": 0.4,
    "train_utterances": {"de": 8, "en": 8},
    "test_utterances": {"de": 2, "en": 2},
    "warm_steps": 3,
    "warm_batch": 4,
    "steps": 6,
    "batch": 4,
    "eval_every": 2,
    "max_new_tokens": 6,
    "text_tokens": 64,
}

# Positions of a window of general text: over a whole vocabulary, 256 of them would be most of what
# is computed here.
WINDOW = 32

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
MULTIMODAL = ("gemma3", "llava")


def multimodal(kind: str) -> PreTrainedModel:
    """A model that sees, of a kind whose tensors transformers renames as it loads them."""
    torch.manual_seed(0)
    if kind == "gemma3":
        text = {**TEXT, "head_dim": 8}
        config = Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4)
        model = Gemma3ForConditionalGeneration(config)
        # Zero before it is trained, and no κ without it.
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
        return model
    parts = {"text_config": LlamaConfig(**TEXT), "vision_config": CLIPVisionConfig(**VISION)}
    return LlavaForConditionalGeneration(LlavaConfig(**parts))


def tokenizer():
    return AutoTokenizer.from_pretrained(models.weights(models.DEFAULT))


def untied_llama(layers: int) -> LlamaForCausalLM:
    """Weights alone: no tokenizer goes with it."""
    torch.manual_seed(0)
    config = LlamaConfig(**{**TEXT, "num_hidden_layers": layers})
    return LlamaForCausalLM(config)


def gpt2() -> GPT2LMHeadModel:
    """Whose attention and MLP both have a ``c_proj``."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    return GPT2LMHeadModel(config).eval().requires_grad_(False)


def read_all(source) -> dict[str, tuple[torch.Tensor, str]]:
    """Name → values and stored dtype of every tensor of a checkpoint."""
    checkpoint = models.open_checkpoint(source)
    return {info.name: (info.read(), info.dtype) for info in checkpoint.tensors}


def adapted(model: PreTrainedModel, targets: dict[str, list[str]]) -> set[str]:
    """Names of the weights that PEFT adapts where it is given these targets."""
    wrapped = get_peft_model(model, LoraConfig(r=2, **targets))
    return {
        name.removeprefix("base_model.model.") + ".weight"
        for name, module in wrapped.named_modules()
        if getattr(module, "lora_A", None)
    }


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def save_model(folder: Path) -> Path:
    llama().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def profile(folder: Path, **changes) -> Profile:
    return profiles.load("smoke", profile="tiny", model=str(folder), **{**SMALL, **changes})


def run(folder: Path, arm: str = "selected", announce: bool = False) -> list[dict]:
    """Train an arm; with ``announce`` each finished step is a line on stdout."""
    experiment, arms = stages.prepare(profile(folder))

    def say(step: int) -> None:
        if announce:
            print(f"step {step}", flush=True)

    return train(experiment, arms[arm], 0, on_step=say)


def comparable(folder: Path) -> list[dict]:
    """Metrics without the one field that may differ between two runs of the same thing."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(folder)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    evaluation.WINDOW = WINDOW
    run(Path(sys.argv[1]), sys.argv[2], announce=True)
