"""What PEFT adapts of a model, tried on the model without values instead of predicted."""

import warnings
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

from kappa_lib.errors import InputError, first_line
from kappa_lib.spectra.kappa_table import types_of
from kappa_lib.weights import loaded

_STACK = "one of a stack of experts, which PEFT and Axolotl only have as a whole"
_ENDS_ANOTHER = "PEFT takes its name for that of another module, which ends with it, too"


def targets(names: Iterable[str]) -> dict[str, list[str]]:
    """Keyword arguments of a PEFT configuration that name these parameters and no others: whole
    module names, and in ``target_parameters`` what is no module's ``weight``."""
    modules = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    parameters = [name for name in names if not name.endswith(".weight")]
    found = {"target_modules": modules}
    return {**found, "target_parameters": parameters} if parameters else found


def adapted(config: str, names: Sequence[str]) -> set[str]:
    """Parameters that PEFT adapts when it is told these names; errors are those of PEFT's own
    injection, which differ by release, and of :func:`kappa_lib.weights.loaded.model_class`."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    model = loaded.empty_model(config)
    settings = LoraConfig(r=1, **targets(names))
    with warnings.catch_warnings(action="ignore"):
        model = inject_adapter_in_model(settings, model, low_cpu_mem_usage=True)
    return {
        f"{name.replace('.base_layer', '')}.{getattr(layer, 'parameter_name', 'weight')}"
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and (layer.lora_A or layer.lora_embedding_A)
    }


def refused(config: str, names: Iterable[str]) -> tuple[dict[str, str], str]:
    """Parameters that have to be left out, so that PEFT adapts all others and nothing else → why;
    and why that could not be tried here, empty where it could.

    All together are tried first, then each module type by itself; single experts never are.
    """
    names = list(names)
    ends = {end for name in names for end in _ends(name)}
    found = {name: _ENDS_ANOTHER for name in names if name in ends}
    found |= {name: _STACK for name in names if name.endswith("]")}
    whole = [name for name in names if name not in found]
    if not config:
        return found, "no configuration says what model it is"
    if find_spec("peft") is None:
        return found, "PEFT is not installed"
    try:
        loaded.model_class(config)
    except InputError as error:
        return found, error.what
    if not whole or not _fault(config, whole):
        return found, ""
    kinds = types_of(whole)
    for kind in dict.fromkeys(kinds.values()):
        group = [name for name in whole if kinds[name] == kind]
        if fault := _fault(config, group):
            found |= dict.fromkeys(group, fault)
    left = [name for name in whole if name not in found]
    if left and (fault := _fault(config, left)):
        found |= dict.fromkeys(left, fault)
    return found, ""


def _ends(name: str) -> list[str]:
    """What a name ends with, from one of its dots on."""
    parts = name.split(".")
    return [".".join(parts[first:]) for first in range(1, len(parts))]


def _fault(config: str, names: Sequence[str]) -> str:
    """What PEFT does other than adapting these parameters alone; empty where it does just that."""
    try:
        found = adapted(config, names)
    except Exception as error:  # whatever PEFT makes of a model
        return f"PEFT refuses it: {first_line(error)}"
    if more := sorted(found - set(names)):
        return f"with it PEFT adapts {len(more)} others, {more[0]} among them"
    return "" if found == set(names) else "PEFT passes over it"
