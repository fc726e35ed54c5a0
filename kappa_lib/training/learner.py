"""One arm's model with its optimiser, and the step that changes them.

With several processes each takes its part of every batch.
"""

import math

from torch import Tensor, nn

from kappa_lib import distributed
from kappa_lib.errors import KappaError
from kappa_lib.spectra.selection import Selection
from kappa_lib.training import optim
from kappa_lib.training.experiment import Experiment
from kappa_lib.training.precision import gradient_checkpointing


class Learner:
    """What fine-tuning changes, and in which order it reads the data.

    Args:
        experiment: model, data and evaluation; its model is loaded anew.
        selection: the tensors of the language model to train, beside the adaptor.
        seed: of the adaptor's initialisation and the order of utterances.

    Attributes:
        model: to evaluate.
        named: name → each parameter that trains.
        optimiser: of these.
    """

    def __init__(self, experiment: Experiment, selection: Selection, seed: int) -> None:
        profile, data = experiment.profile, experiment.data
        self.profile, self.data, self.accelerator = profile, data, experiment.accelerator
        self.peak = profile.peak(selection.arm)
        self.model = experiment.speech_llm(seed, selection)
        of_rate: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                rate = experiment.rates.get(name.removeprefix("llm."), 1.0)
                of_rate.setdefault(rate, []).append(parameter)
        groups = [{"params": trained, "over": rate} for rate, trained in of_rate.items()]
        optimiser = optim.adamw(groups, self.peak, self.accelerator.device)
        self._forward, wrapped = self.accelerator.prepare(self.model, optimiser)
        self.optimiser = wrapped.optimizer
        self.named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self._items = data.first(profile.tune_utterances)
        lengths = [len(data.features[i]) for i in self._items]
        self._plan = optim.batch_plan(lengths, profile.batch, profile.steps, seed)

    def step(self, number: int) -> float:
        """Take one step, numbered from 0, and return its training loss in nats per token.

        Raises:
            KappaError: the loss is not finite.
        """
        rate = optim.rate(self.profile.schedule, number, self.profile.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self.peak * rate * group["over"]
        loss = self._loss([self._items[k] for k in self._plan[number]])
        value = self.accelerator.reduce(loss.detach(), "mean").item()
        if not math.isfinite(value):
            raise KappaError(f"the training loss became {value}", "lower the profile's lr")
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.named.values(), optim.CLIP)
        self.optimiser.step()
        # Now rather than before the next step: an evaluation needs their memory.
        self.optimiser.zero_grad(set_to_none=True)
        return value

    def _loss(self, batch: list[int]) -> Tensor:
        part = [batch[i] for i in distributed.shard(len(batch))]
        features, texts = [self.data.features[i] for i in part], [self.data.texts[i] for i in part]
        with gradient_checkpointing(self.model.llm):
            loss, tokens = self._forward(features, texts)
        # Gradients are averaged over processes; weighted so, that is the mean over tokens.
        whole = sum(len(self.model.targets(self.data.texts[i])) for i in batch)
        return loss * (tokens / whole * distributed.world_size())
