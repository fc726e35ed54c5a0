"""A selection in the formats that other training tools read."""

import re
from pathlib import Path

import yaml

from kappa_lib.errors import InputError
from kappa_lib.files import write_json, write_text
from kappa_lib.spectra.selection import Selection

_SLICE = re.compile(r"\[\d+\]$")


def peft_targets(selection: Selection) -> dict[str, list[str]]:
    """Keyword arguments for a PEFT configuration such as ``LoraConfig(**targets)``.

    Whole module names in ``target_modules``; parameters that are no module's ``weight`` (fused
    experts) in ``target_parameters``, which PEFT has since 0.17.

    Raises:
        InputError: the selection holds single slices of fused experts.
    """
    tensors = _whole_tensors(selection)
    modules = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    parameters = [name for name in tensors if not name.endswith(".weight")]
    targets = {"target_modules": modules}
    return {**targets, "target_parameters": parameters} if parameters else targets


def unfrozen_parameters(selection: Selection) -> str:
    """YAML with ``unfrozen_parameters``, as Spectrum writes it and Axolotl reads it.

    Axolotl takes the entries as regular expressions; each is anchored and escaped, so that it
    matches its one tensor.

    Raises:
        InputError: the selection holds single slices of fused experts.
    """
    patterns = [f"^{re.escape(name)}$" for name in _whole_tensors(selection)]
    return yaml.safe_dump({"unfrozen_parameters": patterns}, width=1000)


def _whole_tensors(selection: Selection) -> list[str]:
    for name in selection.tensors:
        if _SLICE.search(name):
            raise InputError(
                f"{name}: one slice of fused experts, which PEFT and Axolotl can't name",
                "use the selection's JSON, or scan a checkpoint that stores experts one by one",
            )
    return selection.tensors


def write(selection: Selection, folder: Path) -> list[Path]:
    """Write ``<arm>.json``, ``<arm>.peft.json`` and ``<arm>.axolotl.yaml``; return their paths.

    Raises:
        InputError: see :func:`peft_targets`; the plain JSON is there by then.
    """
    paths = [folder / f"{selection.arm}{end}" for end in (".json", ".peft.json", ".axolotl.yaml")]
    selection.save(paths[0])
    write_json(paths[1], peft_targets(selection))
    write_text(paths[2], unfrozen_parameters(selection))
    return paths
