"""A profile's model, data and evaluation, loaded once and shared by its runs."""

import gc
from typing import Any

import torch
from safetensors.torch import load_file

from kappa_lib import distributed, paths
from kappa_lib.errors import InputError
from kappa_lib.profiles import Profile
from kappa_lib.spectra.selection import Selection
from kappa_lib.speech.features import SpeechData, StepReport
from kappa_lib.training import parallel, texts
from kappa_lib.training.evaluation import Forgetting
from kappa_lib.training.model import Adaptor, SpeechLLM
from kappa_lib.training.precision import promote, put_back
from kappa_lib.training.warm_start import new_adaptor
from kappa_lib.weights import models

VERSION = 2  # raise when a change to the code changes what a run computes


def warm_path(profile: Profile, seed: int) -> paths.Path:
    """The warm-started adaptor of a seed."""
    return profile.folder / "warm" / f"seed{seed}.safetensors"


class Bench:
    """What the runs of a profile share; one a process.

    The language model's original weights are kept, so that every run starts from them.

    Raises:
        InputError: the processes see different data, or one would have no utterance of a batch.
    """

    def __init__(
        self, profile: Profile, data: SpeechData, progress: StepReport | None = None
    ) -> None:
        if profile.batch < distributed.world_size():
            raise InputError(
                f"a batch of {profile.batch} leaves some of {distributed.world_size()} processes "
                "without work",
                "raise the profile's batch, or start fewer processes",
            )
        self.profile, self.data, self.progress = profile, data, progress
        device = models.pick_device(profile.device)
        self.accelerator = parallel.accelerator(profile.parallel, device)
        distributed.require_same(data.key, "speech data")
        self.llm: Any
        self.llm, self.tokenizer = models.load(profile.model, profile.dtype, profile.device)
        # CUDA has no deterministic backward pass of the CTC loss; there a warning has to do.
        torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
        self.forgetting = Forgetting(self.llm, self.tokenizer, profile.text_tokens)
        self.original: dict[str, torch.Tensor] = {}
        self._taken_apart = False

    def adaptor(self, seed: int) -> Adaptor:
        """A new adaptor of this seed, on the model's device."""
        table = self.llm.get_input_embeddings().weight
        return new_adaptor(self.data.features[0].shape[1], table, seed).to(table.device)

    def speech_llm(self, seed: int, selection: Selection | None = None) -> SpeechLLM:
        """The original language model with a warm-started adaptor, the selection unfrozen."""
        self.restore()
        adaptor = self.adaptor(seed)
        adaptor.load_state_dict(load_file(warm_path(self.profile, seed)))
        model = SpeechLLM(self.llm, self.tokenizer, adaptor)
        names = selection.tensors if selection else []
        chosen = model.unfreeze(names)
        if selection and parallel.is_sharded(self.accelerator):
            # Sharding moves a part of each tensor to the device, and nothing brings them back.
            self._taken_apart = True
            self.llm.to("cpu")
        else:
            pairs = zip(names, chosen, strict=True)
            self.original = {n: p.detach().to("cpu", copy=True) for n, p in pairs}
        promote(chosen)
        return model

    def restore(self) -> None:
        """Put back the weights that the last run changed."""
        profile = self.profile
        if self._taken_apart:
            # Sharded modules refer to themselves: without a collection two models would be held.
            self.llm = None
            gc.collect()
            torch.cuda.empty_cache()
            self.llm, _ = models.load(profile.model, profile.dtype, profile.device)
            self._taken_apart = False
        parameters = dict(self.llm.named_parameters())
        for name, value in self.original.items():
            put_back(parameters[name], value)
        self.original = {}

    def tell(self, what: str, done: int, total: int, note: str = "") -> None:
        """Report progress to whoever listens."""
        if self.progress:
            self.progress(what, done, total, note)

    def describe(self, *keys: str) -> dict[str, Any]:
        """What decides a result: the named settings, the weights, the data, this code's version."""
        return {
            **self.profile.values(*keys),
            "weights": models.identity(self.profile.model),
            "split": self.data.key,
            "general_text": texts.identity(self.forgetting.windows),
            "version": VERSION,
        }
