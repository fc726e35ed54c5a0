"""Ways to hold an arm's trained tensors: what is done, and what else could be."""

from dataclasses import dataclass, replace

from kappa_lib.profiles import Profile

AS_IT_IS, NOT_HERE = "as it is", "not in this code"


@dataclass(frozen=True)
class Recipe:
    """How the trained tensors are held and updated, as far as memory is concerned.

    Attributes:
        name: in words.
        optimiser: the profile's key.
        extra: bytes a trained parameter takes beside its place among the frozen ones.
        gradient: bytes of its gradient.
        states: bytes of the optimiser's states for it.
        temporaries: bytes of its share of an update's temporaries.
        checkpointing: whether only the layers' inputs are kept for the backward pass.
        shards: devices over which weights, gradients and states are spread.
        offload: whether the optimiser's states live in the host's memory.
    """

    name: str
    optimiser: str
    extra: float
    gradient: float
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


_ADAMW = {
    # An update that is not fused has temporaries as large as the gradients.
    "float32": Recipe("fp32, AdamW", "adamw", 0, 4, 8, 4),
    # fp32 for what trains: 2 bytes more for the weight.
    "bfloat16": Recipe(
        "fp32 for what trains, AdamW, layers recomputed", "adamw", 2, 4, 8, checkpointing=True
    ),
}


def _adafactor(recipe: Recipe) -> Recipe:
    """Row and column averages are thousandths of a byte a parameter; tensors update in turn."""
    name = recipe.name.replace("AdamW", "Adafactor")
    return replace(recipe, name=name, optimiser="adafactor", states=0.01, temporaries=0.0)


def _sharded(recipe: Recipe, devices: int) -> Recipe:
    return replace(recipe, name=f"{recipe.name}, sharded over {devices} devices", shards=devices)


def current(profile: Profile, processes: int = 1) -> Recipe:
    """What ``kappa train --processes N`` does for a profile."""
    recipe = _ADAMW[profile.dtype]
    if profile.optimiser == "adafactor":
        recipe = _adafactor(recipe)
    if profile.parallel == "fsdp2" and processes > 1:
        recipe = _sharded(recipe, processes)
    return recipe


def alternatives(profile: Profile, processes: int = 1) -> tuple[Recipe, ...]:
    """What is done, and other ways to hold the same arms."""
    adamw, first = _ADAMW[profile.dtype], current(profile, processes)
    others = (
        adamw,
        _adafactor(adamw),
        *(_sharded(adamw, devices) for devices in (2, 4, 8)),
        replace(adamw, name=f"{adamw.name}, states on the host", offload=True),
    )
    return (first, *(recipe for recipe in others if recipe.name != first.name))
