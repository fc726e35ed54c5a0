"""Finished runs of the profile ``smoke`` that were never trained: files as training leaves them."""

import json

from kappa_lib import profiles
from kappa_lib.evidence.runs import Runs
from kappa_lib.spectra.selection import Selection

WOBBLE = (0.001, -0.001, 0.0005, -0.0005, 0.0)
TENSORS = [f"model.layers.{i}.self_attn.{kind}_proj.weight" for i in (4, 6) for kind in "qv"]


def arm(wer=0.1, text=0.03, kl=0.03, turned=False, curve=(1.0,), **more):
    """An arm whose runs end at these values, up to a wobble from seed to seed.

    ``turned`` gives it another wobble than its partner's, so that differences have a spread;
    ``curve`` is its error rate before the end; ``more`` is of ``write``, by name.
    """
    return {"ends": (wer, text, kl), "turned": turned, "curve": curve, **more}


def write(folder, arms, seeds=(1, 2, 3, 4, 5), model="smollm2-135m"):
    """Write the runs under ``folder`` (which ``KAPPA_RESULTS`` names) and return them.

    ``arms`` is name → :func:`arm`; an arm may have its own ``seeds``, ``tensors``,
    ``parameters``, ``train_loss``, ``draws``, ``schedule``, ``disruption``, ``corpora`` (corpus →
    last WER, or WERs by seed) and ``evaluations`` (seed → rows, in place of made ones).
    """
    profile = profiles.load("smoke", arms=list(arms), seeds=list(seeds), model=model)
    names = {name for of in arms.values() for name in of.get("tensors", TENSORS)}
    lines = "".join(f"{name},2.0\n" for name in sorted(names))
    profile.folder.mkdir(parents=True, exist_ok=True)
    (profile.folder / "kappa.csv").write_text(f"tensor,kappa\n{lines}")
    for name, of in arms.items():
        tensors, size = of.get("tensors", TENSORS), of.get("parameters", 1000)
        path = profile.folder / "selections" / f"{name}.json"
        Selection(name, "made up", 0, sorted(tensors), size, "").save(path)
        if name.startswith("random"):
            path.rename(path.with_name(f"{name}-seed{profile.seeds[0]}.json"))
        for index, seed in enumerate(of.get("seeds", seeds)):
            run = profile.folder / "runs" / f"{name}-seed{seed}"
            (run / "transcripts").mkdir(parents=True, exist_ok=True)
            rows = of["evaluations"][seed] if "evaluations" in of else _rows(of, index)
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (run / "metrics.jsonl").write_text(lines)
            config = {"tensors": f"draw {index % of.get('draws', 99)}", "dtype": "float32"}
            config |= {"schedule": of.get("schedule", "constant")}
            (run / "config.json").write_text(json.dumps(config))
            (run / "provenance.json").write_text("{}")
            if "disruption" in of:
                moved = of["disruption"] + WOBBLE[index % 5] * (-1 if of["turned"] else 1)
                (run / "spectra.csv").write_text(f"type,dlogkappa\nq_proj,{moved}\n")
    return Runs(profile)


def _rows(of, index):
    wobble = WOBBLE[::-1] if of["turned"] else WOBBLE
    up, down = wobble[index % 5], wobble[::-1][index % 5]
    wer, text, kl = of["ends"]
    start = {"text_loss": 3.0, "kl": 0.0, "train_loss": 9.0, "heldout_loss": 5.0}
    rows = [start | {"wer": {"de": w, "en": w}} for w in of["curve"]]
    end = {"text_loss": 3.0 + text + up, "kl": kl + up, "heldout_loss": 1.0}
    end["train_loss"] = of.get("train_loss", 1.0)
    rates = of.get("corpora", {"de": wer + down, "en": wer + down})
    end["wer"] = {c: r[index] if isinstance(r, list) else r for c, r in rates.items()}
    rows.append(end)
    return [row | {"step": 4 * i, "utterances": 16 * i} for i, row in enumerate(rows)]
