"""Other models in another gauge: ``python -m tools.families`` → ``results/reference/gauge``.

``families.csv`` has one row per model and module type with its median κ in each gauge,
``functions.json`` what changed of the function and of the choice. Forward passes alone.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import nn

from kappa_lib import paths, text
from kappa_lib.files import read_json, write_json, write_text
from kappa_lib.spectra import gauge, selection
from kappa_lib.spectra.invariant import invariant_kappa
from kappa_lib.spectra.scan import scan
from kappa_lib.weights import models

MODELS = ("smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
WORDS = 2000  # characters of English prose on which logits are compared
GAUGES: dict[str, Callable[[nn.Module], Any]] = {
    "as stored": lambda _: None,
    "dose 3": lambda llm: gauge.regauge(llm, dose=3),
    "dose 6": gauge.regauge,
    "flipped": gauge.flip,
    "balanced": gauge.balance,
}


@torch.inference_mode()
def measured(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Median κ per type in each gauge, and the facts about function and choice."""
    llm, tokenizer = models.load(name)
    ids = tokenizer(text.bundled_text("english")[:WORDS], return_tensors="pt").input_ids
    told = llm(ids).logits
    medians, chosen, facts = {}, {}, {}
    for label, change in GAUGES.items():
        llm, _ = models.load(name)  # rather than a copy: the largest takes 7 GB
        change(llm)
        logits = llm(ids).logits
        table = scan(llm)
        medians[label] = table.groupby("type")["kappa"].median()
        count = selection.count_for(table)
        chosen[label] = set(selection.select(table, "selected", count).tensors)
        facts[label] = {
            "bits equal": torch.equal(logits, told),
            "largest difference of a logit": (logits - told).abs().max().item(),
            "selected": count,
            "selected as before": len(chosen[label] & chosen["as stored"]),
        }
        print(name, label, json.dumps(facts[label]), flush=True)
    # Of the balanced model: balancing it once more, as this does, hardly changes it.
    medians["invariant"] = invariant_kappa(llm).groupby(table.set_index("tensor")["type"]).median()
    return pd.DataFrame(medians), facts


def main() -> None:
    """Measure the models that are named, or all, and keep what others have left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    folder = paths.REFERENCE / "gauge"
    csv, functions = folder / "families.csv", folder / "functions.json"
    for name in parser.parse_args().models:
        table, facts = measured(name)
        others = [pd.read_csv(csv).query("model != @name")] if csv.is_file() else []
        table = pd.concat([*others, table.reset_index().assign(model=name)])
        write_text(csv, table.to_csv(index=False, float_format="%.6g"))
        write_json(functions, (read_json(functions) if functions.is_file() else {}) | {name: facts})


if __name__ == "__main__":
    main()
