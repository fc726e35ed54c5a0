"""The speech LLM of the paper's section 4.1: frozen encoder → adaptor → language model.

Its weights may be bfloat16, which has 8 significant bits: an update below a 512th of the weight is
rounded away, and at the learning rates of models of this size most are. What trains is therefore
kept in fp32 (it is its own master copy), while autocast rounds it to bf16 for every product; what
is frozen stays in bf16. With fp32 weights all of this is switched off and nothing changes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

STACK = 4  # the paper sub-samples audio embeddings four times, by concatenation
HEAD_WIDTH = 64
INSTRUCTION = "Transcribe the speech."
_AUDIO = "<<audio>>"
# Llama 3.2's template writes the day's date into the prompt where none is given; this is 3.1's.
_DATE = "26 Jul 2024"


def positions(frames: int) -> int:
    """Number of adaptor outputs for a number of encoder frames."""
    return -(-frames // STACK)


def sinusoids(length: int, width: int) -> Tensor:
    """(length, width) sinusoidal positional encoding (Vaswani et al. 2017, section 3.5)."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle = torch.arange(length)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(length, -1)[:, :width]


class Adaptor(nn.Module):
    """Concatenate 4 frames → linear → layer norm → two attention layers with positions.

    The attention layers are pre-norm with a residual connection, which the paper leaves open.
    The output is scaled to the size of the language model's token embeddings.

    Args:
        encoder_width: features a frame of the encoder.
        width: of the language model's embeddings.
        scale: root mean square of the language model's token embeddings.
    """

    def __init__(self, encoder_width: int, width: int, scale: float) -> None:
        super().__init__()
        heads = max(1, width // HEAD_WIDTH)
        self.project = nn.Linear(STACK * encoder_width, width)
        self.norm = nn.LayerNorm(width)
        self.attention_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attentions = nn.ModuleList(
            nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(2)
        )
        self.output_norm = nn.LayerNorm(width)
        nn.init.constant_(self.output_norm.weight, scale)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Map encoder frames to language-model embeddings.

        Args:
            features: one (frames, encoder_width) tensor per utterance.

        Returns:
            (batch, positions, width) embeddings and the (batch,) number of valid positions.
        """
        weight = self.project.weight
        stacked = [self._stack(f.to(weight.device, weight.dtype)) for f in features]
        lengths = torch.tensor([len(s) for s in stacked], device=weight.device)
        hidden = self.norm(self.project(pad_sequence(stacked, batch_first=True)))
        padding = torch.arange(hidden.shape[1], device=hidden.device) >= lengths[:, None]
        hidden = hidden + sinusoids(*hidden.shape[1:]).to(hidden)
        for norm, attention in zip(self.attention_norms, self.attentions, strict=True):
            normed = norm(hidden)
            update, _ = attention(
                normed, normed, normed, key_padding_mask=padding, need_weights=False
            )
            hidden = hidden + update
        return self.output_norm(hidden), lengths

    @staticmethod
    def _stack(frames: Tensor) -> Tensor:
        frames = nn.functional.pad(frames, (0, 0, 0, -len(frames) % STACK))
        return frames.reshape(len(frames) // STACK, -1)


class SpeechLLM(nn.Module):
    """An LLM whose prompt holds the adaptor's output where the user's message would be.

    ``adaptor`` gives a batch of items their embeddings, as :class:`Adaptor` does; ``instruction``
    is the system's message.
    """

    def __init__(
        self,
        llm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        adaptor: Callable[[Sequence[Tensor]], tuple[Tensor, Tensor]],
        instruction: str = INSTRUCTION,
    ) -> None:
        super().__init__()
        self.llm, self.adaptor, self.tokenizer = llm, adaptor, tokenizer
        self.before, self.after = chat_prompt(tokenizer, instruction)
        self.end = _end_of_turn(tokenizer)

    @property
    def embeddings(self) -> nn.Module:
        return self.llm.get_input_embeddings()

    def unfreeze(self, names: Sequence[str]) -> list[nn.Parameter]:
        """Make the named tensors of the language model trainable, in fp32, and no others of it."""
        known = dict(self.llm.named_parameters())
        self.llm.requires_grad_(False)
        for name in names:
            known[name].data = known[name].data.float()
        return [known[name].requires_grad_(True) for name in names]

    def targets(self, text: str) -> list[int]:
        """Token ids that the model learns to answer: the transcript and the end of the turn."""
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.end]

    def forward(self, features: Sequence[Tensor], texts: Sequence[str]) -> tuple[Tensor, int]:
        """Auto-regressive cross-entropy of the transcripts given the audio (section 4.2).

        The output layer runs only where a label is: with a small model and a vocabulary of
        tens of thousands it would otherwise be a fifth of the work.

        Returns:
            Mean loss in nats per token, and the number of label tokens.
        """
        prompts = self.prompts(features)
        labels = [torch.tensor(self.targets(t), device=prompts[0].device) for t in texts]
        rows = [
            torch.cat([p, self.embeddings(y[:-1])]) for p, y in zip(prompts, labels, strict=True)
        ]
        inputs, mask = _padded(rows, "right")
        with autocast(self.llm):
            hidden = self.llm.get_decoder()(
                inputs_embeds=inputs, attention_mask=mask, use_cache=False
            ).last_hidden_state
            # The last prompt position predicts the first label, and so on.
            spans = [
                h[len(p) - 1 : len(p) - 1 + len(y)]
                for h, p, y in zip(hidden, prompts, labels, strict=True)
            ]
            logits = self.llm.get_output_embeddings()(torch.cat(spans)).float()
        target = torch.cat(labels)
        return nn.functional.cross_entropy(logits, target), len(target)

    @torch.inference_mode()
    def transcribe(self, features: Sequence[Tensor], max_new_tokens: int) -> list[tuple[str, bool]]:
        """Greedy transcripts of a batch, left-padded; an utterance leaves it where its turn ends.

        Returns:
            (text, capped) per utterance; capped when the length limit was reached before the
            end of the turn.
        """
        inputs, mask = _padded(self.prompts(features), "left")
        given, cache = {"inputs_embeds": inputs}, DynamicCache(config=self.llm.config)
        answers: list[list[int]] = [[] for _ in features]
        going = answers
        for _ in range(max_new_tokens):
            places = (mask.cumsum(dim=1) - 1).clamp(min=0)
            given["position_ids"] = places[:, cache.get_seq_length() :]
            with autocast(self.llm):
                hidden = self.llm.get_decoder()(
                    **given, attention_mask=mask, past_key_values=cache
                ).last_hidden_state
                # As a matrix: of a slice of three dimensions in bf16 torch copies the output
                # layer's weights for every utterance, of Qwen's 150,000 tokens 0.3 GB each.
                logits = self.llm.get_output_embeddings()(hidden[:, -1])
            tokens = logits.argmax(dim=-1)
            for answer, token in zip(going, tokens.tolist(), strict=True):
                answer.append(token)
            left = (tokens != self.end).nonzero().flatten()
            if not len(left):
                break
            if len(left) < len(going):
                cache.batch_select_indices(left)
                tokens, mask, going = tokens[left], mask[left], [going[i] for i in left.tolist()]
            given, mask = {"input_ids": tokens[:, None]}, nn.functional.pad(mask, (0, 1), value=1)
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [(t.strip(), a[-1] != self.end) for t, a in zip(texts, answers, strict=True)]

    def prompts(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Instruction and adapted audio, (positions, width) per utterance; the answer follows."""
        audio, lengths = self.adaptor(features)
        device = audio.device
        before = self.embeddings(torch.tensor(self.before, device=device))
        after = self.embeddings(torch.tensor(self.after, device=device))
        audio = audio.to(before.dtype)
        return [
            torch.cat([before, a[:n], after]) for a, n in zip(audio, lengths.tolist(), strict=True)
        ]


def _is_mixed(llm: PreTrainedModel) -> bool:
    """Whether the model's frozen weights are narrower than fp32."""
    return llm.get_input_embeddings().weight.dtype != torch.float32


def autocast(llm: PreTrainedModel) -> torch.autocast:
    """A context in which products with ``llm``'s weights are taken in its own type.

    Nothing is cached: the rounded copies of all that trains would be held to the end of a pass,
    and each is needed in one layer.
    """
    kind = llm.get_input_embeddings().weight.device.type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=_is_mixed(llm), cache_enabled=False)


@contextmanager
def gradient_checkpointing(llm: PreTrainedModel) -> Iterator[None]:
    """Inside, a forward pass of bf16 weights on a GPU keeps only the inputs of its layers.

    They run again for the backward pass, since a GPU's memory is scarce; a processor has memory to
    spare, and would lose a quarter of a step. Transformers recomputes in training mode alone;
    Llama has no dropout for that to switch on.
    """
    if not _is_mixed(llm) or llm.get_input_embeddings().weight.device.type == "cpu":
        yield
        return
    llm.activation_checkpointing_enable()
    llm.train()
    try:
        yield
    finally:
        llm.eval()
        llm.activation_checkpointing_disable()


def _padded(rows: Sequence[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """(length, width) each → (batch, longest, width), and the (batch, longest) attention mask."""
    ones = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]
    padded = partial(pad_sequence, batch_first=True, padding_side=side)
    return padded(rows), padded(ones)


def chat_prompt(
    tokenizer: PreTrainedTokenizerBase, instruction: str = INSTRUCTION
) -> tuple[list[int], list[int]]:
    """Token ids of the chat template before and after the place where the audio goes."""
    messages = [
        {"role": "system", "content": instruction},
        {"role": "user", "content": _AUDIO},
    ]
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, date_string=_DATE
    )
    before, after = tokenizer(text.split(_AUDIO), add_special_tokens=False)["input_ids"]
    return before, after


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that closes an assistant's turn in the tokenizer's chat template."""
    vocabulary = tokenizer.get_vocab()
    ends = (vocabulary[token] for token in ("<|im_end|>", "<|eot_id|>") if token in vocabulary)
    return next(ends, tokenizer.eos_token_id)
