"""What the arms of a profile take: parameters, memory and disk, before anything is downloaded.

Counted on models of the published sizes on torch's meta device, where no weight takes memory:
parameters by their modules, the optimiser's states by a step of the optimiser itself.
"""

from dataclasses import replace

import pandas as pd
import torch
from torch import nn

from kappa_lib.profiles import Profile
from kappa_lib.spectra import kappa_table, selection
from kappa_lib.spectra.selection import Selection
from kappa_lib.text import counted
from kappa_lib.training import optim
from kappa_lib.training.model import Adaptor
from kappa_lib.weights import models, sizes

GB = 1e9


def states(parameters: list[nn.Parameter], optimiser: str) -> int:
    """Bytes of an optimiser's states of these parameters, on the meta device, after a step."""
    made = optim.make(optimiser, parameters, 1e-3, torch.device("meta"))
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    made.step()
    held = (value for state in made.state.values() for value in state.values())
    return sum(value.nbytes for value in held if torch.is_tensor(value))


def selections(
    profile: Profile, shapes: dict[str, tuple[int, int]], layers: int
) -> list[Selection]:
    """What each arm would train: the run's selection where it is made, else by the null of shape.

    Under the null (``kappa_table.null_table``) every κ is what the shape makes typical, so that
    the number of parameters can be told before a weight is read. Which tensors of one shape are
    taken is then arbitrary.

    Args:
        profile: whose arms.
        shapes: module path inside a layer → (rows, cols).
        layers: how many such layers.
    """
    table = kappa_table.null_table(shapes, layers)
    table["input_kappa"] = table["kappa"]  # as on an input without directions of its own
    count = selection.count_for(table, profile.share)
    found = []
    for arm in profile.arms:
        if selection.path_of(profile, arm).is_file():
            found.append(selection.of_run(profile, arm))
            continue
        chosen = selection.select(table, profile.rule(arm), count, profile.seed)
        chosen, lora = replace(chosen, arm=arm), profile.lora_rank
        found.append(selection.as_lora(table, chosen, lora) if lora else chosen)
    return found


def arms(profile: Profile) -> pd.DataFrame:
    """A row an arm: ``tensors`` and ``parameters`` that it trains of the language model, and GB.

    ``weights`` are all of the language model and the adaptor, in fp32 what trains, the rest in the
    profile's dtype; ``gradients`` are fp32; ``disk`` is what the runs of all seeds leave, and the
    checkpoint of the one under way. Activations are in none of them.

    Raises:
        InputError: the sizes of the profile's model or encoder are not known.
    """
    llm = sizes.empty(profile.model)
    shapes, layers = sizes.layout(llm)
    dtype = models.pick_dtype(profile.dtype, profile.device)
    size = getattr(torch, dtype).itemsize
    rows = {}
    for chosen in selections(profile, shapes, layers):
        with torch.device("meta"):
            # Of LoRA's matrices the number is known, which is all that matters here.
            trained = [nn.Parameter(torch.empty(s)) for s in _shapes(profile, chosen, shapes)]
            if profile.task == "speech" and not profile.lora_rank:
                adaptor = Adaptor(sizes.encoder_width(profile.encoder), llm.config.hidden_size, 1.0)
                trained += adaptor.parameters()
        bytes_trained = sum(parameter.nbytes for parameter in trained)
        frozen = llm.num_parameters() - (0 if profile.lora_rank else chosen.parameters)
        held = states(trained, profile.optimiser)
        rows[chosen.arm] = {
            "tensors": len(chosen.tensors),
            "parameters": chosen.parameters,
            "weights": (size * frozen + bytes_trained) / GB,
            "gradients": bytes_trained / GB,
            "optimiser": held / GB,
            "disk": (bytes_trained * (len(profile.seeds) + 1) + held) / GB,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")


def _shapes(
    profile: Profile, chosen: Selection, shapes: dict[str, tuple[int, int]]
) -> list[tuple[int, ...]]:
    if profile.lora_rank:
        return [(chosen.parameters,)]
    inside = [name.split(".", 3)[-1].removesuffix(".weight") for name in chosen.tensors]
    return [shapes[name] for name in inside]


def text(profile: Profile) -> str:
    """The plan for reading."""
    found = arms(profile)
    amounts = found.drop(columns=["tensors", "parameters"])
    shown = found.assign(parameters=found["parameters"].map("{:,}".format))
    shown[amounts.columns] = amounts.map("{:.2f}".format)
    shown.insert(5, "together", amounts.drop(columns="disk").sum(axis=1).map("{:.2f}".format))
    scanned = all(selection.path_of(profile, arm).is_file() for arm in profile.arms)
    basis = "measured κ" if scanned else "the κ typical of the shapes; the scan decides"
    return f"""\
Plan of profile {profile.profile}; nothing has been downloaded. GB, for one process:

{shown.reset_index().to_string(index=False)}

Tensors are chosen by {basis}. `disk` holds the runs of {counted(len(profile.seeds), "seed")}.
Activations come on top of the memory; --set steps=2 with `kappa train` shows how much.
With --set parallel=fsdp2 each of N GPUs holds an Nth of the memory, not of the activations."""
