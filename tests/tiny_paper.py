"""What a profile of the paper's size loads, in miniature: Llama 3, its tokenizer, Whisper, corpora.

Every file has the format, the configuration fields and the special tokens of the real one; only
the sizes are small and the weights random.
"""

from pathlib import Path

import hub_files
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from kappa_lib import profiles
from kappa_lib.profiles import Profile

BEGIN, HEADER, ENDED_HEADER, TURN = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
SPECIAL = [BEGIN, "<|end_of_text|>", HEADER, ENDED_HEADER, TURN]
# As Llama 3.2's: the system message carries the day's date unless the caller gives one.
TEMPLATE = (
    "{{- bos_token }}"
    "{%- if not date_string is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{%- if message['role'] == 'system' %}{{- 'Today: ' + date_string + '\\n\\n' }}{%- endif %}"
    "{{- message['content'] + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{%- endif %}"
)
SMALL = {
    "device": "cpu",
    "train_utterances": {"librispeech": 8, "mls_german": 8},
    "test_utterances": {"librispeech": 3, "mls_german": 3},
    "warm_steps": 2,
    "warm_batch": 4,
    "steps": 4,
    "batch": 4,
    "eval_every": 2,
    "max_new_tokens": 4,
    "text_tokens": 32,
}


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with Llama 3's special tokens, its own start token put in front."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*hub_files.ENGLISH, *hub_files.GERMAN] * 4, trainer)
    begin = core.token_to_id(BEGIN)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, begin)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BEGIN, eos_token=TURN, chat_template=TEMPLATE
    )


def llama(layers: int = 4) -> LlamaForCausalLM:
    """Llama 3.1's configuration with every size divided, grouped queries and untied head kept."""
    words = tokenizer()
    ids = {name: words.convert_tokens_to_ids(token) for name, token in (("bos", BEGIN),)}
    settings = {
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 224,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "bos_token_id": ids["bos"],
        "eos_token_id": [words.convert_tokens_to_ids(t) for t in SPECIAL if t.startswith("<|e")],
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**settings)).to(torch.bfloat16)


def whisper(bands: int = 128) -> WhisperForConditionalGeneration:
    """A random Whisper of 32 features; large-v3 has 128 mel bands, the others 80."""
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=32,
        num_mel_bins=bands,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return WhisperForConditionalGeneration(config).eval()


def write(root: Path) -> Path:
    """``llama`` (sharded bf16), ``whisper`` and ``corpora`` below a folder."""
    llama().save_pretrained(root / "llama", max_shard_size="100KB")
    tokenizer().save_pretrained(root / "llama")
    whisper().save_pretrained(root / "whisper")
    hub_files.write_both(root / "corpora", train=8, test=3)
    return root


def places(patch: pytest.MonkeyPatch, root: Path, results: str = "results") -> None:
    """Where runs on these files find the corpora, and leave what they keep and find."""
    for name, folder in (("HOME", "cache"), ("RESULTS", results), ("CORPORA", "corpora")):
        patch.setenv(f"KAPPA_{name}", str(root / folder))


def profile(root: Path, name: str = "paper", **changes) -> Profile:
    """A profile of the paper's size with its models in miniature; its arms are the profile's."""
    places = {"model": str(root / "llama"), "encoder": str(root / "whisper")}
    return profiles.load(name, **{**places, **SMALL, **changes})
