"""What a profile would cost: parameters, memory, disk, arithmetic; nothing is downloaded.

Every figure follows from the profile and the published sizes of its models. Estimates are named
as such, with the formula in the function that makes them.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from kappa_lib.errors import InputError
from kappa_lib.profiles import Profile
from kappa_lib.run.workload import FRAMES, activations, forward, workload
from kappa_lib.spectra import kappa_table, selection
from kappa_lib.training.evaluation import EVAL_BATCH, KINDS, WINDOW
from kappa_lib.training.model import Adaptor
from kappa_lib.weights import models, sizes

FLAC_BYTES = 18_500  # a second of read speech: LibriSpeech's train-clean-100 is 6.6 GB
RESERVE = 2 * 2**30  # bytes: CUDA context, workspaces and fragmentation
AS_IT_IS, NOT_HERE = "as it is", "not in this code"
# Fixed by the shapes: types and their quotas decide, whichever tensors of a type are taken.
BY_SHAPE = (
    "lowest_in_type", "highest_in_type", "lower_of_neighbours", "higher_of_neighbours", "mlp",
    "attention", "mlp_matched_size", "attention_matched_size", "value", "key", "all",
    "adaptor_only",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How the trained tensors are held and updated, as far as memory is concerned.

    Attributes:
        name: in words.
        optimiser: the profile's key.
        extra: bytes a trained parameter takes beside its place among the frozen ones.
        states, temporaries: bytes a trained parameter of the optimiser's states and an update's
            temporaries; its gradient takes 4.
        checkpointing: whether only the layers' inputs are kept for the backward pass.
        shards: devices over which weights, gradients and states are spread.
        offload: whether the optimiser's states live in the host's memory.
    """

    name: str
    optimiser: str
    extra: float
    states: float
    temporaries: float = 0.0
    checkpointing: bool = False
    shards: int = 1
    offload: bool = False

    def options(self, profile: Profile, processes: int = 1) -> str:
        """What to add to ``--profile P --processes N`` for this recipe."""
        if self.offload:
            return NOT_HERE
        way = "fsdp2" if self.shards > 1 else "ddp"
        number = self.shards if self.shards > 1 else processes
        # One process does neither, but Adafactor and sharding exclude each other.
        matters = number > 1 or self.optimiser == "adafactor"
        words = [
            f"--processes {number}" if number != processes else "",
            f"--set optimiser={self.optimiser}" if self.optimiser != profile.optimiser else "",
            f"--set parallel={way}" if matters and way != profile.parallel else "",
        ]
        return " ".join(filter(None, words)) or AS_IT_IS


def recipes(profile: Profile, processes: int = 1) -> tuple[Recipe, ...]:
    """What ``kappa train --processes N`` does for a profile, then other ways to hold its arms."""
    if profile.dtype == "float32":
        # An update that is not fused has temporaries as large as the gradients.
        adamw = Recipe("fp32, AdamW", "adamw", extra=0, states=8, temporaries=4)
    else:  # fp32 for what trains: 2 bytes more for the weight
        recomputed = profile.device != "cpu"
        name = "fp32 for what trains, AdamW" + ", layers recomputed" * recomputed
        adamw = Recipe(name, "adamw", extra=2, states=8, checkpointing=recomputed)
    # Row and column averages are thousandths of a byte a parameter; tensors update in turn.
    name = adamw.name.replace("AdamW", "Adafactor")
    adafactor = replace(adamw, name=name, optimiser="adafactor", states=0.01, temporaries=0.0)

    def sharded(recipe: Recipe, devices: int) -> Recipe:
        name = f"{recipe.name}, sharded over {devices} devices"
        return replace(recipe, name=name, shards=devices)

    done = adafactor if profile.optimiser == "adafactor" else adamw
    if profile.parallel == "fsdp2" and processes > 1:
        done = sharded(done, processes)
    others = (adamw, adafactor, *(sharded(adamw, devices) for devices in (2, 4, 8)))
    others += (replace(adamw, name=f"{adamw.name}, states on the host", offload=True),)
    return (done, *(recipe for recipe in others if recipe.name != done.name))


@dataclass(frozen=True)
class Arm:
    """One arm's trained tensors of the language model.

    Attributes:
        name: of the arm.
        tensors, parameters: how many.
        basis: ``selection`` (made from measured κ), ``shapes`` (exact without any κ) or
            ``null`` (the selection that an untrained model of these shapes would give).
        kinds: module type → tensors.
    """

    name: str
    tensors: int
    parameters: int
    basis: str
    kinds: dict[str, int]


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while an arm trains."""

    weights: float
    gradients: float
    optimiser: float
    activations: float
    reserve: float = RESERVE

    @property
    def total(self) -> float:
        """All of it."""
        return sum(vars(self).values())


class Plan:
    """Counts and estimates for a profile, on ``processes`` devices.

    Raises:
        InputError: the sizes of the profile's model or encoder are not known, or it is not of
            speech, or of LoRA.
    """

    def __init__(self, profile: Profile, processes: int = 1) -> None:
        if profile.task != "speech" or profile.lora_rank:
            raise InputError(
                f"profile {profile.profile}: text tasks and LoRA are not planned for",
                "plan a profile of speech that trains the tensors themselves",
            )
        if profile.dtype == "auto":  # what this machine would take
            device = models.pick_device(profile.device).type
            dtype = models.pick_dtype("auto", device)
            profile = profile.model_copy(update={"device": device, "dtype": dtype})
        self.profile, self.processes = profile, processes
        self.llm = sizes.language_model(sizes.llama_config(profile.model))
        self.encoder = sizes.encoder(profile.encoder)
        with torch.device("meta"):
            adaptor = Adaptor(self.encoder.width, self.llm.width, 1.0)
        self.adaptor = sum(p.numel() for p in adaptor.parameters())
        self.recipes = recipes(profile, processes)
        self.recipe = self.recipes[0]
        self.load = workload(profile)
        self.size = 2 if profile.dtype == "bfloat16" else 4  # bytes of a frozen parameter

    @cached_property
    def arms(self) -> list[Arm]:
        """Trained tensors of each arm: from the profile's selections, else from the null of shapes.

        Under the null every κ is what the tensor's shape makes typical (see
        ``kappa_table.null_table``), so that "smallest" and "largest" can be counted before a
        weight is read. Which tensors of one shape are taken is then arbitrary.
        """
        profile = self.profile
        table = kappa_table.null_table(self.llm.shapes, self.llm.layers)
        table["input_kappa"] = table["kappa"]  # as on an input without directions of its own
        count = selection.count_for(table, profile.share)
        found = []
        for name in profile.arms:
            if selection.path_of(profile, name).is_file():
                chosen, basis = selection.of_run(profile, name), "selection"
            else:
                chosen = selection.select(table, name, count, profile.seed)
                basis = "shapes" if name in BY_SHAPE else "null"
            kinds = kappa_table.composition(table, chosen.tensors)["tensors"].astype(int).to_dict()
            found.append(Arm(name, len(chosen.tensors), chosen.parameters, basis, kinds))
        return found

    @property
    def largest(self) -> Arm:
        """The arm that trains most."""
        return max(self.arms, key=lambda arm: arm.parameters)

    def memory(self, trained: int, recipe: Recipe | None = None) -> Memory:
        """Bytes on each device for an arm of ``trained`` language-model parameters. An estimate.

        - weights: every parameter in the profile's dtype, the recipe's extra for those that train,
          and the adaptor in fp32;
        - gradients: of the trained tensors, and of the adaptor in fp32;
        - optimiser: the recipe's states and temporaries; two fp32 moments for the adaptor;
        - activations: :func:`activations` of each process' part of a batch of the longest
          utterances and, of sharded weights, what FSDP2 gathers while training: a whole layer,
          beside the tables and the adaptor, which no layer holds; or what an evaluation holds
          where that is larger: the key-value cache and, of sharded weights, a whole copy, in the
          place of the gradients (which several whole copies keep as buffers);
        - reserve: a constant.
        """
        recipe, llm, size, load = recipe or self.recipe, self.llm, self.size, self.load
        sharded = recipe.shards > 1
        processes = recipe.shards if sharded else self.processes
        kept = 0.0 if recipe.offload else recipe.states * trained + 8 * self.adaptor
        weights = size * llm.parameters + recipe.extra * trained + 4 * self.adaptor
        gradients = 4 * (trained + self.adaptor) / recipe.shards
        batch = -(-self.profile.batch // processes)
        training = activations(llm, size, load, batch, recipe.checkpointing)
        longest = load.longest + self.profile.max_new_tokens
        cache = 2 * llm.layers * llm.keys * size * min(EVAL_BATCH, load.tests) * longest
        evaluating = cache - (gradients if processes == 1 or sharded else 0.0)
        if sharded:
            outside = size * llm.tables
            training += outside + (weights - outside) / llm.layers
            evaluating += weights
        return Memory(
            weights=weights / recipe.shards,
            gradients=gradients,
            optimiser=(kept + recipe.temporaries * trained) / recipe.shards,
            activations=max(training, evaluating),
        )

    def host_memory(self, trained: int) -> float:
        """Bytes in the memory of a machine that runs all processes. An estimate.

        - of each process: the trained tensors as they were or, with FSDP2, the whole model with
          fp32 for what trains, on its way to the devices;
        - what entered the base model's output layer on the general texts, which the processes
          share;
        - the main process' checkpoint: fp32 weights and the optimiser's states.
        """
        originals = self.size * trained
        if self.recipe.shards > 1:
            originals = self.size * self.llm.parameters + self.recipe.extra * trained
        answers = self.size * len(KINDS) * self.profile.text_tokens * self.llm.width
        checkpoint = (4 + self.recipe.states) * trained + 12 * self.adaptor
        return self.processes * originals + answers + checkpoint

    def ways(self) -> list[tuple[str, str, float]]:
        """Ways to hold the largest arm: recipe, what to add to the command, bytes on a device."""
        return [
            (
                recipe.name,
                recipe.options(self.profile, self.processes),
                self.memory(self.largest.parameters, recipe).total,
            )
            for recipe in self.recipes
        ]

    def disk(self) -> dict[str, float]:
        """Bytes on the disk by kind: downloads, speech, encoder features, runs. An estimate.

        Features are ``FRAMES`` a second of the encoder's width in fp16. A run leaves its trained
        tensors in fp32; the one under way also has its checkpoint with the optimiser's two moments.
        """
        finished = 4.0 * sum(arm.parameters + self.adaptor for arm in self.arms)
        under_way = 12.0 * (self.largest.parameters + self.adaptor)
        return {
            "model": float(self.size * self.llm.parameters),
            "encoder": float(self.encoder.download),
            "speech": self.load.seconds * FLAC_BYTES,
            "features": self.load.seconds * FRAMES * self.encoder.width * 2,
            "runs": finished * len(self.profile.seeds) + under_way,
        }

    def step(self, trained: int) -> float:
        """Operations of a training step, a multiplication and an addition being two. An estimate.

        A position costs 2 operations a matrix parameter forwards and 2 backwards, since gradients
        pass every layer on their way to the adaptor; 2 more a trained parameter; attention
        4·layers·width·length forwards and twice that backwards; the output layer 6 a parameter at
        each label. Layers computed again add a forward pass.
        """
        llm, load = self.llm, self.load
        head = 2.0 * llm.vocabulary * llm.width
        passes = 3 if self.recipe.checkpointing else 2
        utterance = load.mean * (passes * forward(llm, load.mean) + 2 * trained)
        return self.profile.batch * (utterance + load.labels * 3 * head)

    def work(self) -> tuple[dict[str, float], float, float]:
        """Operations of each arm with all seeds, of everything, and bytes read. An estimate.

        All arms share the encoding of every utterance, and the adaptor's warm start (6 operations
        a parameter and position). Generating the transcripts of an evaluation reads the weights
        once for each token of a batch's longest answer: memory bounds it, not arithmetic.
        """
        profile, llm, load, seeds = self.profile, self.llm, self.load, len(self.profile.seeds)
        evaluations = -(-profile.steps // profile.eval_every)
        heard = load.tests * load.test_positions * forward(llm, load.test_positions)
        # The output layer twice: for the model now, and for the base model.
        head = 2.0 * llm.vocabulary * llm.width
        scored = len(KINDS) * profile.text_tokens * (forward(llm, float(WINDOW)) + 2 * head)
        each = {}
        for arm in self.arms:
            training = profile.steps * self.step(arm.parameters)
            each[arm.name] = seeds * (training + evaluations * (heard + scored))
        encoding = load.seconds * FRAMES * 2.0 * self.encoder.parameters
        warm = 6.0 * self.adaptor * load.mean * profile.warm_batch * profile.warm_steps
        answers = evaluations * -(-load.tests // EVAL_BATCH) * load.labels
        reads = answers * self.size * llm.parameters * len(self.arms) * seeds
        return each, sum(each.values()) + encoding + warm * seeds, reads
