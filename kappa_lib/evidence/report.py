"""What runs measured, in Markdown tables: of reports, notebooks and ``results/reference``."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from kappa_lib import paths
from kappa_lib.evidence import claims, compare
from kappa_lib.evidence.claims import Claim
from kappa_lib.evidence.runs import Runs, committed, runs, tested
from kappa_lib.evidence.verdicts import Decision, Verdict, decisive, interval
from kappa_lib.files import read_json, write_text
from kappa_lib.profiles import Profile
from kappa_lib.speech.transcripts import normaliser
from kappa_lib.text import clock, counted, markdown
from kappa_lib.weights import models

FILE = "REPORT.md"
# Question → the profile whose committed runs answer it, and the pair of its arms.
QUESTIONS: dict[str, tuple[str, compare.Pair]] = {
    "same function: κ as it is − × 30": ("gauge", ("selected", "dose3_matched")),
    "same function: κ as it is − × 8": ("gauge", ("selected", "dose2_matched")),
    "matched pair: smaller − larger κ": ("cause", compare.MATCHED[0]),
    "matched pair, 300 steps": ("understood", compare.MATCHED[0]),
    "type: attention − MLP": ("type", ("attention_matched_size", "mlp_matched_size")),
    "type: values − keys": ("type", ("value", "key")),
    "size: MLP − a third of it": ("type", ("mlp", "mlp_matched_size")),
    "smallest − largest κ on real input": ("type", ("lowest_input_kappa", "highest_input_kappa")),
    "smallest − largest κ, the paper's arms": ("study", ("selected", "inverse")),
    "smallest − largest κ, 600 steps": ("long", ("selected", "inverse_matched_size")),
    "smallest − largest κ, people's voices": ("voices", ("selected", "inverse_matched_size")),
    "smallest − largest κ, ten epochs": ("turn", ("selected", "inverse_matched_size")),
    "LoRA, early: matched pair": ("text_early", compare.MATCHED[0]),
    "LoRA: smallest κ − everywhere": ("text", ("selected", "all")),
    "LoRA: smallest κ − at random": ("text", ("selected", "random")),
    "LoRA: smallest κ − same types": ("text", ("selected", "random_like_selected")),
    "LoRA, longer: smallest κ − everywhere": ("text_longer", ("selected", "all")),
    "LoRA, Qwen 0.5B: smallest κ − everywhere": ("text_qwen", ("selected", "all")),
    "LoRA, Qwen 0.5B: smallest κ − same types": ("text_qwen", ("selected", "random_like_selected")),
    "LoRA, early: smallest κ − everywhere": ("text_early", ("selected", "all")),
}
# Scale → how far a verdict reaches, in words, and what "fails" means there.
REACH = {
    "proved": ("theorem", "a counterexample"),
    "this model": ("this model", "not reproduced at this size"),
    "toy": ("constructed example", "one counterexample, built"),
}
# What is counted apart, since it is no claim of the paper's.
_APART = {"identity": "identities", "caveat": "our caveats"}
# Column of the evaluations → heading.
HEADS = {"wer_mean": "mean, %", "capped": "truncated, %", "empty": "empty, %"}
HEADS |= {"train_loss": "training loss", "heldout_loss": "held-out loss"}
HEADS |= {"text_loss": "general-text loss", "kl": "KL from base"}
LOSSES = ["train_loss", "heldout_loss", "text_loss", "kl"]
# What an outcome begins with → its name in tables.
_COSTS = {"wer": "WER", "text": HEADS["text_loss"], "kl": "KL"}


@cache
def _templates() -> jinja2.Environment:
    loader, undefined = jinja2.FileSystemLoader(paths.DATA), jinja2.StrictUndefined
    found = jinja2.Environment(loader=loader, trim_blocks=True, undefined=undefined)
    functions = (counted, normaliser, interval, measured, by_importance, tally, tested)
    functions += (evaluations_table, arms_table)
    found.globals |= {function.__name__: function for function in functions}
    found.globals |= {"read": read_json, "reach": REACH, "apart": _APART, "losses": LOSSES}
    found.globals["compare"] = compare
    found.filters |= {"clock": clock, "said": _said, "line": lambda text: " ".join(text.split())}
    found.filters["cell"] = lambda text: text.replace("|", "\\|")
    return found


def table(name: str, *of: Any) -> str:
    """One of the tables in ``data/tables.md.j2``, of what its macro takes."""
    return getattr(_templates().get_template("tables.md.j2").module, name)(*of).strip()


def write(profile: Profile, folder: Path | None = None) -> Path:
    """Write ``REPORT.md`` from what a profile's runs left; return its path. Claims and figures are
    read from the ``folder`` that it is written to, by default the profile's output."""
    folder = folder or profile.output
    found, path, timings = runs(profile), folder / FILE, profile.folder / "timings.json"
    template = _templates().get_template("REPORT.md.j2")
    text = template.render(
        profile=profile,
        found=found,
        stored_as=models.stored_as(profile.model),
        computed_in=sorted({c["dtype"] for arm in found.ran for c in found.configs(arm)}),
        pilot=decisive(found.evaluations.groupby("seed").size())[1],
        pictures={path.stem for path in (folder / "figures").glob("*.png")},
        timings=read_json(timings) if timings.is_file() else None,
        claims=claims.load(folder),
    )
    write_text(path, text.rstrip() + "\n")
    return path


def evaluations_table(
    rows: pd.DataFrame, columns: Sequence[str], by: Sequence[str] = ("arm", "step", "utterances")
) -> str:
    """A row per arm and evaluation: mean and, of several seeds, standard deviation."""
    heads = [HEADS.get(name, f"WER {name.removeprefix('wer_')}, %") for name in columns]
    table = []
    for key, group in rows.groupby(list(by), sort=False):
        pairs = zip(columns, heads, strict=True)
        cells = (_spread(group[name], "%" in head) for name, head in pairs)
        table.append([*key, len(group), *cells])
    return markdown([*by, "seeds", *heads], table)


def _said(name: str) -> str:
    """An outcome in words: ``kl at equal de_open`` is KL at equal held-out loss of de_open."""
    pair, comma, outcome = name.rpartition(", ")
    cost, _, rest = outcome.partition(" ")
    if cost not in _COSTS:
        return name
    where = f" on {rest} text" if rest else ""
    if rest.startswith("at equal "):
        where = f" {rest.replace('equal', 'equal held-out loss of', 1)}"
    return f"{pair}{comma}{_COSTS[cost]}{where}"


def _spread(values: pd.Series, in_percent: bool) -> str:
    if values.isna().any():
        return "–"
    factor, digits = (100, 1) if in_percent else (1, 3)
    spread = f" ± {factor * values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{factor * values.mean():.{digits}f}{spread}"


def arms_table(found: Runs) -> str:
    """Rule, tensors, parameters and module types of every arm."""
    table = found.arms.round({"kappa": 1, "layer": 1}).astype(object).fillna("–")
    table["parameters"] = table["parameters"].map("{:,}".format)
    return markdown(["arm", *table], table.itertuples())


def questions() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The committed answer to each of ``QUESTIONS``, of the outcomes at the end: seed by seed and
    compared, as in :mod:`kappa_lib.evidence.compare`; ``pair`` is the question."""
    dots, rows = [], []
    for question, (name, pair) in QUESTIONS.items():
        asked = committed(name), [pair], compare.ENDS
        table = compare.comparisons(*asked)
        named = {"pair": f"{question} (n = {table['n'].max()})"}
        rows.append(table.assign(**named))
        dots.append(compare.seed_by_seed(*asked).assign(**named))
    return pd.concat(dots, ignore_index=True), pd.concat(rows, ignore_index=True)


def by_importance(found: Sequence[Claim]) -> dict[str, list[Claim]]:
    """Heading → claims: primary, other, identities and caveats, each in the catalogue's order."""
    return {
        "Primary claims": [c for c in found if c.primary],
        "Other claims": [c for c in found if c.kind == "claim" and not c.primary],
        "Identities and caveats": [c for c in found if c.kind != "claim"],
    }


def measured(claim: Claim) -> str:
    """What was measured: estimates with intervals and readings, and the cell's plain numbers."""
    found, texts = claim.decision, []
    if found:
        named = ((_said(name), part) for name, part in found.parts.items())
        parts = [f"{_numbers(part, name)}: {part.verdict}" for name, part in named]
        texts = [*(parts or [_numbers(found)]), found.note]
    texts += [f"{name} = {_short(value)}" for name, value in claim.measured.items()]
    return "; ".join(filter(None, texts)) or "–"


def _numbers(found: Decision, name: str = "") -> str:
    """Name, estimate, interval and repetitions; the name alone without an estimate."""
    if found.estimate is None:
        return name
    low, high = found.interval or (math.nan, math.nan)
    digits = 2 if found.unit.startswith("points") else 4
    text = f"{name} {interval(found.estimate, low, high, digits)} {found.unit}".strip()
    return text if found.n is None or found.interval is None else f"{text}, n = {found.n}"


def _short(value: Any) -> str:
    """At most four significant digits; long lists by their ends."""
    if isinstance(value, list):
        shown = value if len(value) <= 4 else [*value[:2], "…", value[-1]]
        return "[" + ", ".join(_short(item) for item in shown) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def tally(found: Sequence[Claim]) -> str:
    """How many claims have which verdict, by reach; identities and caveats apart."""
    columns = [*(words for words, _ in REACH.values()), *_APART.values()]
    pairs = [(str(c.verdict), _APART.get(c.kind, REACH[c.scale][0])) for c in found]
    counts = pd.crosstab(*map(pd.Series, zip(*pairs, strict=True)))
    counts = counts.reindex(columns=columns, fill_value=0)
    rows = [[v, *(n or "" for n in counts.loc[v])] for v in Verdict if v in counts.index]
    rows.append(["**all**", *(f"**{n}**" for n in counts.sum())])
    return markdown(["verdict", *columns], rows)
