"""The paper's sizes on one GPU, with random weights: κ of every matrix, and training steps.

    PYTHONPATH=tests python -m benchmarks.paper_size --out DIR [--only scan] [--only train]

Makes a checkpoint of Llama-3.1-8B's shapes (bf16, random matrices with a falling spectrum), a
Whisper encoder of large-v3's, and noise in the place of speech, some of it 30 s long; scans the
checkpoint, and trains an arm of profile ``paper`` on it as ``kappa train`` does: with random
weights the one that the shapes alone would give. Weights and words mean nothing, so neither do
losses; time and memory are those of the real ones. Writes ``paper_size.json``: seconds of the
scans, and of the training what it took of the GPU's memory beside what ``kappa plan`` says. Needs
an NVIDIA GPU of 80 GB, as much disk, and 100 GB of memory.
"""

import argparse
import os
import shutil
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import hub_files
import numpy as np
import tiny_paper
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from benchmarks import synthetic
from kappa_lib import paths, profiles, provenance
from kappa_lib.files import read_json, write_json
from kappa_lib.profiles import Profile
from kappa_lib.progress import say
from kappa_lib.run.plan import Plan
from kappa_lib.run.plan_text import GIB
from kappa_lib.spectra import kappa_table, selection
from kappa_lib.spectra.scan import scan
from kappa_lib.speech import features
from kappa_lib.training import trainer
from kappa_lib.training.experiment import Experiment
from kappa_lib.weights import sizes

DEVICE = "cuda"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
# Seconds of a training utterance: a batch of the longest that the encoder takes, and the rest so
# short that the mean is that of `run.workload`, by which operations are counted.
LONGEST, MEAN, BATCH = 30.0, 10.7, 16
WORDS = {"en": "the cat sat still and saw a red boat ", "de": "die katze saß still am alten boot "}
PARTS = ("scan", "train")
SCANS = {"extremes": [], "auto": ["model.layers.0.*", "model.layers.1.*"]}


def write_llama(folder: Path, layers: int) -> None:
    """A sharded bf16 checkpoint of random weights, with tokenizer, in ``folder``."""
    config = LlamaConfig(**sizes.CONFIGS[LLAMA] | {"num_hidden_layers": layers})
    with torch.device(DEVICE):
        llm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for seed, (name, weight) in enumerate(llm.model.layers.named_parameters()):
        if weight.ndim == 2:
            decay = synthetic.decay_of(name.removesuffix(".weight"))
            weight.data = synthetic.trained_like(*weight.shape, decay, seed, DEVICE)
    llm.save_pretrained(folder, max_shard_size="2GB")
    tiny_paper.tokenizer().save_pretrained(folder)


def write_whisper(folder: Path) -> None:
    """An encoder of Whisper large-v3's sizes, of random weights."""
    with torch.device(DEVICE):
        encoder = WhisperEncoder(sizes.whisper_config("openai/whisper-large-v3"))
    encoder.save_pretrained(folder)


def write_corpora(root: Path, train: int, test: int) -> None:
    """LibriSpeech and MLS German in the hub's layout: noise, with three words a second."""

    def text(language: str, seconds: float) -> str:
        return (WORDS[language] * 20)[: round(18 * seconds)].rsplit(" ", 1)[0]

    lengths = [LONGEST if i < BATCH else MEAN for i in range(train)]
    english = [hub_files.librispeech_row(i, s, text=text("en", s)) for i, s in enumerate(lengths)]
    german = [hub_files.mls_row(i, MEAN, transcript=text("de", MEAN)) for i in range(train)]
    hub_files.write_librispeech(root, "train.clean.100", english, 2)
    hub_files.write_mls(root, "train", german, 2)
    heard = range(1000, 1000 + test)
    hub_files.write_librispeech(
        root, "test.clean", [hub_files.librispeech_row(i, MEAN) for i in heard]
    )
    hub_files.write_mls(root, "test", [hub_files.mls_row(i, MEAN) for i in heard])


def scans(folder: Path) -> dict[str, Any]:
    """Seconds of ``kappa scan`` on the GPU by both ways."""
    found = {}
    for method, patterns in SCANS.items():
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        table = scan(folder, device=DEVICE, method=method, include=patterns)
        found[method] = {
            "matrices": len(table),
            "seconds": time.perf_counter() - start,
            "methods_taken": table["method"].value_counts().to_dict(),
            "largest_error_bound": float(table["kappa_error"].max()),
            "peak_gib": torch.cuda.max_memory_allocated() / GIB,
        }
        say(f"scan, {method}: {len(table)} matrices in {found[method]['seconds']:.1f} s")
    return found


def training(profile: Profile, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """One arm trained: what was planned, and what it took.

    After each step ``keep`` is told as much as is known by then, for whom time runs out.
    """
    (arm,) = profile.arms
    plan = Plan(profile)
    table = kappa_table.null_table(plan.llm.shapes, plan.llm.layers)
    chosen = selection.select(table, arm, selection.count_for(table, profile.share), profile.seed)
    experiment = Experiment(profile, features.load(profile))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    found = {
        "arm": arm,
        "optimiser": profile.optimiser,
        "tensors": len(chosen.tensors),
        "parameters": chosen.parameters,
        "planned_gib": plan.memory(chosen.parameters).total / GIB,
    }
    ended = []

    def on_step(step: int) -> None:
        ended.append(time.perf_counter())
        peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        found.update(steps=step, peak_gib=peaks[0] / GIB, reserved_gib=peaks[1] / GIB)
        # The last step's end is after its evaluation.
        if len(pace := np.diff(ended[: profile.steps - 1])):
            found["seconds_per_step"] = float(np.median(pace))
            operations = plan.step(chosen.parameters)
            found["tflops"] = operations / found["seconds_per_step"] / 1e12
        keep(found)

    trainer.train(experiment, chosen, profile.seeds[0], on_step)
    return found


def run(
    out: Path, layers: int, steps: int, arm: str, optimiser: str, parts: Collection[str] | None
) -> dict[str, Any]:
    """All of it; the checkpoints made for it stay in ``out``, the runs' results go.

    ``parts`` are of ``PARTS``, both by default; what another call measured of the other stays.
    """
    os.environ |= {"KAPPA_CORPORA": str(out / "corpora"), "KAPPA_HOME": str(out / "cache")}
    os.environ.setdefault("KAPPA_RESULTS", str(out / "results"))
    started = time.perf_counter()
    if not (out / "llama" / "tokenizer.json").is_file():  # what is written last
        write_corpora(out / "corpora", 48, 16)
        write_whisper(out / "whisper")
        write_llama(out / "llama", layers)
        torch.cuda.empty_cache()
        say(f"checkpoints made in {time.perf_counter() - started:.0f} s")
    profile = profiles.load(
        "paper",
        model=str(out / "llama"),
        encoder=str(out / "whisper"),
        device=DEVICE,
        arms=[arm],
        optimiser=optimiser,
        train_utterances={"librispeech": 48, "mls_german": 48},
        test_utterances={"librispeech": 16, "mls_german": 16},
        warm_steps=10,
        steps=steps,
        eval_every=steps,
        max_new_tokens=32,
        spectra=False,
    )
    path = out / "paper_size.json"
    report = read_json(path) if path.is_file() else {"layers": layers}

    def keep(part: str, found: dict[str, Any]) -> None:
        report[part] = found | {"provenance": provenance.describe(DEVICE)}
        write_json(path, report)

    parts = parts or PARTS
    if "scan" in parts:
        keep("scan", scans(out / "llama"))
    if "train" in parts:
        keep("train", training(profile, partial(keep, "train")))
    shutil.rmtree(paths.results("paper"), ignore_errors=True)
    return report


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--arm", default="inverse")
    parser.add_argument("--optimiser", default="adamw")
    parser.add_argument("--only", dest="parts", action="append", choices=PARTS)
    say(str(run(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
