"""What a profile's runs share: model, data, evaluation, and the adaptor each seed starts from."""

import gc
import os
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from kappa_lib.files import read_json, stage, write_json
from kappa_lib.profiles import Profile
from kappa_lib.progress import Progress
from kappa_lib.spectra import gauge
from kappa_lib.spectra.selection import Selection
from kappa_lib.speech import encoder
from kappa_lib.speech.features import SpeechData
from kappa_lib.training.evaluation import Forgetting, evaluate, texts_identity
from kappa_lib.training.model import Adaptor, SpeechLLM
from kappa_lib.training.warm_start import new_adaptor, warm_start
from kappa_lib.weights import models
from kappa_lib.weights.safetensors_files import load_tensors, save_tensors

VERSION = 2  # raise when a change to the code changes what a run computes
WARM_KEYS = ("model", "encoder", "dtype", "warm_steps", "warm_batch", "warm_lr")
EVAL_KEYS = ("max_new_tokens", "text_tokens")
# LoRA's α over its rank, the factor on BA, of every arm that has no LoRA of its own: where α alone
# is the same, an arm of a higher rank is scaled down, and learns less for no reason of its own.
LORA_SCALE = 2.0


class Experiment:
    """A profile's model, data and evaluation; the model is loaded anew for each run."""

    def __init__(self, profile: Profile, data: SpeechData) -> None:
        # Of a run's type, not of its wish: a machine that picks another one makes another run.
        dtype = models.pick_dtype(profile.dtype, profile.device)
        profile = profile.model_copy(update={"dtype": dtype})
        self.profile, self.data = profile, data
        self.llm: Any  # of the run, which changes it; at first the original
        self.llm, self.tokenizer = models.load(profile.model, profile.dtype, profile.device)
        # Without it CUDA's matrix products aren't deterministic; cuBLAS reads it when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a twentieth of a step
        self.forgetting = Forgetting(self.llm, self.tokenizer, profile.text_tokens)
        self.rates: dict[str, float] = {}  # of the run's tensors, over its own; without one: 1

    def reload(self) -> PreTrainedModel:
        """Let go of the model that a run has changed, and load the original anew."""
        # A model refers to itself: without a collection two of them would be held.
        self.llm = None
        gc.collect()
        torch.cuda.empty_cache()
        self.llm, _ = models.load(self.profile.model, self.profile.dtype, self.profile.device)
        return self.llm

    def adaptor(self, seed: int) -> Adaptor:
        """A new adaptor of this seed, on the model's device."""
        table = self.llm.get_input_embeddings().weight
        return new_adaptor(self.data.features[0].shape[1], table, seed).to(table.device)

    def speech_llm(self, seed: int, selection: Selection | None = None) -> SpeechLLM:
        """The original language model behind a warm-started adaptor, the selection unfrozen.

        With the profile's ``lora_rank`` LoRA's matrices train beside its tensors, in their place.
        InputError where the selection names a tensor that the model does not have.
        """
        self.reload()
        model, names = self._untrained(seed), []
        if selection:
            selection.check({name for name, _ in self.llm.named_parameters()})
            names = selection.tensors
            self.rates = self._regauge(selection.arm, seed)
            if self.profile.lora_rank:
                own = self.profile.lora.get(selection.arm)
                names = insert_lora(self.llm, selection, seed, own and own.alpha)
        model.unfreeze(names)
        return model

    def _regauge(self, arm: str, seed: int) -> dict[str, float]:
        """Change the model's gauge where the profile says so, and return the tensors' rates."""
        if arm not in self.profile.gauge:
            return {}
        gauged, factors = self.profile.gauge[arm], {}
        if gauged.dose:
            factors = gauge.regauge(self.llm, seed, gauged.dose)
        if gauged.flip:
            factors = gauge.flip(self.llm)
        return {n: 1 / gauge.rms_inverse(f) for n, f in factors.items()} if gauged.rms else {}

    def _untrained(self, seed: int) -> SpeechLLM:
        adaptor = self.adaptor(seed)
        adaptor.load_state_dict(load_tensors(self._warm_path(seed)))
        return SpeechLLM(self.llm, self.tokenizer, adaptor)

    def evaluate(self, model: SpeechLLM) -> dict[str, Any]:
        """:func:`kappa_lib.training.evaluation.evaluate` on this experiment's data."""
        return evaluate(model, self.data.tests, self.forgetting, self.profile.max_new_tokens)

    def warm_start(self, seed: int) -> dict[str, Any]:
        """Make the adaptor from which every arm of a seed starts, unless there is one already, and
        return its evaluation, step 0 of every arm, with the ``ctc_loss`` of each of its steps."""
        profile, path = self.profile, self._warm_path(seed)
        seed = profile.seed if profile.shared_start else seed
        inputs = {**self.describe(*WARM_KEYS, *EVAL_KEYS), "seed": seed}
        inputs |= profile.model_dump(include={"warm_dropout"}, exclude_defaults=True)
        kept = path.with_suffix(".json")

        def make() -> None:
            self.reload()
            losses = self._train_adaptor(seed, path)
            with Progress(f"evaluating the start, seed {seed}", 1) as progress:
                found = self.evaluate(self.speech_llm(seed))
                progress.update()
            write_json(kept, {**found, "ctc_loss": losses})

        stage(f"warm-seed{seed}", profile.folder, inputs, [path, kept], make)
        return read_json(kept)

    def _warm_path(self, seed: int) -> Path:
        start = self.profile.seed if self.profile.shared_start else seed
        return self.profile.folder / "warm" / f"seed{start}.safetensors"

    def _train_adaptor(self, seed: int, path: Path) -> list[float]:
        profile, adaptor = self.profile, self.adaptor(seed)
        targets = self.tokenizer(self.data.texts, add_special_tokens=False)["input_ids"]
        # CUDA has no deterministic backward pass of the CTC loss: there a warning has to do, and
        # two machines that are to agree have to share the file that this leaves.
        torch.use_deterministic_algorithms(True, warn_only=True)
        losses = warm_start(
            adaptor,
            self.llm.get_input_embeddings().weight.detach(),
            self.data.features,
            targets,
            steps=profile.warm_steps,
            batch=profile.warm_batch,
            lr=profile.warm_lr,
            dropout=profile.warm_dropout,
            seed=seed,
        )
        torch.use_deterministic_algorithms(True)
        save_tensors(path, adaptor.state_dict())
        return losses

    def describe(self, *keys: str) -> dict[str, Any]:
        """What decides a result: the named settings, the weights, the data, this code's version."""
        found = {key: getattr(self.profile, key) for key in keys}
        found["weights"] = models.identity(self.profile.model)
        pinned = encoder.identity(self.profile.encoder) if "encoder" in keys else None
        if isinstance(pinned, dict):  # files: the encoder's name in the profile does not say which
            found["encoder_weights"] = pinned
        found["split"] = self.data.key
        found["general_text"] = texts_identity(self.forgetting.windows)
        found["version"] = VERSION
        return found


def insert_lora(
    llm: PreTrainedModel, selection: Selection, seed: int, alpha: float | None = None
) -> list[str]:
    """Put LoRA's pair of matrices (Hu et al. 2022, arXiv 2106.09685) beside each selected one.

    The model is changed in place, by PEFT. B is zero, so that the model begins as it was; A is
    drawn from ``seed``. The size of ``selection``, of :func:`kappa_lib.spectra.selection.as_lora`,
    gives the rank; ``alpha`` is LoRA's α, by default ``LORA_SCALE`` times the rank.

    Returns:
        Names of the new parameters.
    """
    from peft import LoraConfig, inject_adapter_in_model  # slow to import, and seldom needed

    known = dict(llm.named_parameters())
    rank = selection.parameters // sum(sum(known[name].shape) for name in selection.tensors)
    alpha = LORA_SCALE * rank if alpha is None else alpha
    config = LoraConfig(r=rank, lora_alpha=alpha, **selection.peft_targets())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, llm)
    return [name for name, _ in llm.named_parameters() if name not in known and "lora_" in name]
