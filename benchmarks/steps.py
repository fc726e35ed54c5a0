"""A training step of ours against a plain Hugging Face one, on the same batches in one process.

    python -m benchmarks.steps [--profile laptop] [--batches 10]

The plain one calls the language model with padded inputs and labels, as a tutorial would; ours
takes the output layer's product only where a label is, in fp32 and, where the processor has units
for it, in bf16. All train the arm ``selected`` and the adaptor, and their losses must agree. Writes
``results/steps/steps.json``.
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks import bench
from kappa_lib import paths, profiles
from kappa_lib.errors import KappaError
from kappa_lib.files import write_json
from kappa_lib.profiles import Profile
from kappa_lib.progress import say, track
from kappa_lib.spectra import scan, selection
from kappa_lib.speech import features
from kappa_lib.training import optim
from kappa_lib.training.model import SpeechLLM
from kappa_lib.training.precision import promote
from kappa_lib.training.warm_start import new_adaptor
from kappa_lib.weights import models

IGNORED = -100  # what Hugging Face's loss leaves out
CLOSE = {"float32": 1e-3, "bfloat16": 2e-2}  # how far our loss may be from the plain one


def plain(model: SpeechLLM, speech: list[Tensor], texts: list[str]) -> Tensor:
    """The mean loss of a batch by the language model's own call."""
    prompts = model.prompts(speech)
    answers = [torch.tensor(model.targets(text)) for text in texts]
    pairs = list(zip(prompts, answers, strict=True))
    rows = [torch.cat([p, model.embeddings(y)]) for p, y in pairs]
    labels = [torch.cat([torch.full((len(p),), IGNORED), y]) for p, y in pairs]
    mask = pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
    return model.llm(
        inputs_embeds=pad_sequence(rows, batch_first=True),
        attention_mask=mask,
        labels=pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        use_cache=False,
    ).loss


def ours(model: SpeechLLM, speech: list[Tensor], texts: list[str]) -> Tensor:
    """The same by our own."""
    return model.loss(speech, texts)[0]


def step(model: SpeechLLM, loss: Callable[[], Tensor]) -> float:
    """A forward and a backward pass; returns the loss."""
    model.zero_grad(set_to_none=True)
    found = loss()
    found.backward()
    return found.item()


def speech_llms(profile: Profile, width: int) -> dict[str, SpeechLLM]:
    """The profile's model with the arm ``selected`` unfrozen: fp32, and bf16 where it is fast."""
    table = scan.scan(models.weights(profile.model))
    chosen = selection.select(table, "selected", selection.count_for(table, profile.share))
    found = {}
    for dtype in dict.fromkeys(("float32", models.pick_dtype("auto", "cpu"))):
        llm, tokenizer = models.load(profile.model, dtype, "cpu")
        adaptor = new_adaptor(width, llm.get_input_embeddings().weight, 0)
        found[dtype] = SpeechLLM(llm, tokenizer, adaptor)
        promote(found[dtype].unfreeze(chosen.tensors))
    return found


def run(name: str, batches: int) -> dict[str, Any]:
    """Time all ways on some batches in turn, after one of each that is not counted.

    Raises:
        KappaError: the losses differ.
    """
    profile = profiles.load(name)
    data = features.load(profile)
    lengths = [len(f) for f in data.features]
    llms = speech_llms(profile, data.features[0].shape[1])
    ways = {"plain": (llms["float32"], plain), **{d: (m, ours) for d, m in llms.items()}}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for part in track(optim.batch_plan(lengths, profile.batch, batches + 1, 0), "steps"):
        speech, texts = [data.features[i] for i in part], [data.texts[i] for i in part]
        losses = {}
        for way, (model, loss) in ways.items():
            took, _, losses[way] = bench.timed(
                partial(step, model, partial(loss, model, speech, texts))
            )
            seconds[way].append(took)
        for dtype in llms:
            if abs(losses[dtype] / losses["plain"] - 1) > CLOSE[dtype]:
                raise KappaError(f"the losses are {losses}", "mend one of them")
    middle = {way: median(values[1:]) for way, values in seconds.items()}
    return {
        "machine": bench.machine(),
        "profile": name,
        "batch": profile.batch,
        "batches": batches,
        "seconds": middle,
        "times_as_fast": {way: middle["plain"] / middle[way] for way in llms},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--batches", type=int, default=10)
    options = parser.parse_args()
    report = run(options.profile, options.batches)
    write_json(paths.results("steps") / "steps.json", report)
    say(f"{report['seconds']}; times as fast as the plain step: {report['times_as_fast']}")
