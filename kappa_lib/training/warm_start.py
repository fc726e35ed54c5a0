"""The adaptor's warm start: CTC against the language model's own token embeddings.

The paper trains the adaptor from scratch together with the LLM, for days. On a laptop that
leaves the word error rate near 100 %, whatever is selected. So before the comparison the adaptor
alone learns to place each spoken token's embedding in order (Graves et al. 2006), which needs no
pass through the LLM. Every arm of a seed starts from the same warm-started adaptor.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from kappa_lib.errors import InputError
from kappa_lib.progress import Progress
from kappa_lib.training.model import Adaptor, positions
from kappa_lib.training.optim import WEIGHT_DECAY, batch_plan, rate

# Cosines are multiplied by e³ ≈ 20 at first. Chosen, not tuned; CLIP's own begin at 14.
LOG_SCALE = 3.0
CLIP = 5.0  # norm of the whole gradient; chosen, not tuned


class CTCHead(nn.Module):
    """Cosine similarity between adaptor outputs and the (tokens, width) embeddings that the LLM has
    of the tokens that occur, frozen, and of a learned blank."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self.register_buffer("tokens", nn.functional.normalize(embeddings.float(), dim=-1))
        self.blank = nn.Parameter(torch.randn(embeddings.shape[1]) / embeddings.shape[1] ** 0.5)
        self.log_scale = nn.Parameter(torch.tensor(LOG_SCALE))

    def forward(self, audio: Tensor) -> Tensor:
        """(batch, positions, width) → (positions, batch, 1 + tokens) log-probabilities."""
        blank = nn.functional.normalize(self.blank, dim=0)[None]
        classes = torch.cat([blank, self.tokens])
        cosine = nn.functional.normalize(audio, dim=-1) @ classes.T
        return (cosine * self.log_scale.exp()).log_softmax(dim=-1).transpose(0, 1)


def new_adaptor(encoder_width: int, embeddings: Tensor, seed: int) -> Adaptor:
    """An adaptor initialised from ``seed``, scaled to the LLM's (vocabulary, width) embeddings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scale = embeddings.float().pow(2).mean().sqrt().item()
        return Adaptor(encoder_width, embeddings.shape[1], scale)


def warm_start(
    adaptor: Adaptor,
    embeddings: Tensor,
    features: Sequence[Tensor],
    targets: Sequence[Sequence[int]],
    *,
    steps: int,
    batch: int,
    lr: float,
    dropout: float = 0.0,
    seed: int,
) -> list[float]:
    """Train the adaptor in place and return the CTC loss of every step, in nats per utterance.

    ``embeddings`` are the language model's (vocabulary, width). ``features`` are a (frames,
    encoder_width) tensor of each utterance, ``targets`` the token ids of its transcript. A step
    does not see the share ``dropout`` of the features; ``lr`` is at its peak. InputError where
    every transcript is longer than the adaptor's output for its audio.
    """
    fits = [i for i, y in enumerate(targets) if _alignable(y, positions(len(features[i])))]
    if not fits:
        raise InputError("no transcript fits its audio", "check that they belong together")
    known = sorted({token for i in fits for token in targets[i]})
    index = {token: k + 1 for k, token in enumerate(known)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = CTCHead(embeddings[known]).to(embeddings.device)
    parameters = [*adaptor.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(seed)
    plan = batch_plan([len(features[i]) for i in fits], batch, steps, seed)
    losses = []
    with Progress(f"warm start, seed {seed}", steps) as progress:
        for step, chosen in enumerate(plan):
            for group in optimiser.param_groups:
                group["lr"] = lr * rate("decaying", step, steps)
            items = [fits[k] for k in chosen]
            audio, lengths = adaptor([_dropped(features[i], dropout, generator) for i in items])
            labels = [torch.tensor([index[t] for t in targets[i]]) for i in items]
            loss = nn.functional.ctc_loss(
                head(audio),
                torch.cat(labels).to(audio.device),
                lengths,
                torch.tensor([len(y) for y in labels]),
                reduction="sum",
                zero_infinity=True,
            ) / len(items)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimiser.step()
            losses.append(loss.item())
            progress.update(note=f"CTC loss {losses[-1]:.2f}")
    return losses


def _dropped(frames: Tensor, share: float, generator: torch.Generator) -> Tensor:
    if not share:
        return frames
    kept = torch.rand(frames.shape, generator=generator) >= share
    return frames.float() * kept / (1 - share)


def _alignable(target: Sequence[int], length: int) -> bool:
    """CTC needs a position per token, and a blank between two equal tokens."""
    repeats = sum(a == b for a, b in pairwise(target))
    return len(target) > 0 and len(target) + repeats <= length
