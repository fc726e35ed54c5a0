"""A profile: one checked dataclass that says how large a run is. Same code, other values."""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

import yaml

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.files import fits, parse, shown

_CHOICES = {
    "dtype": ("auto", "float32", "bfloat16"),
    "device": ("auto", "cpu", "cuda"),
    "optimiser": ("adamw", "adafactor"),
    "schedule": ("decaying", "constant"),
    "parallel": ("ddp", "fsdp2"),
    "task": ("speech", "vowels"),
}
# Of profiles and arms, which name files.
_NAME = re.compile(r"\w[\w.-]{0,99}")
# The corpora that need no folder of one's own, and their languages.
CORPORA = {
    **{"de": "de", "en": "en", "de_open": "de", "en_open": "en", "en_human": "en"},
    **{"librispeech": "en", "mls_german": "de"},
}


@dataclass(frozen=True)
class Profile:
    """Every setting of a run; the YAML files in ``data/profiles`` hold a value for each.

    Settings with a default came later: a file without them, and a run from before them, have it.

    Args:
        profile: its name, and the name of its folder under ``results/``.
        model: ``smollm2-135m`` (a pinned asset), a local folder (relative to the profile's file),
            or a model hub id.
        encoder: ``whisper-base`` (a pinned asset), a local folder, or a model hub id.
        dtype: of the language model's weights, ``float32``, ``bfloat16``, or ``auto``, which is
            bfloat16 where the device has units for it; what trains is fp32 always.
        device: ``auto`` (CUDA where there is one, else CPU), ``cpu`` or ``cuda``.
        share: share of the decoder's matrices that an arm trains; the paper's is 100/224.
        arms: selections to compare, see ``kappa_lib.spectra.selection``.
        seed: of everything that is drawn once: speech, split, random selections.
        seeds: one training run an arm for each.
        train_utterances: corpus → number of training items.
        test_utterances: corpus → number of test items.
        warm_steps, warm_batch, warm_lr: the adaptor's CTC warm start.
        steps, batch, lr: fine-tuning; utterances a step, of all processes together, and peak
            learning rate.
        parallel: what several processes do, ``ddp`` or ``fsdp2``, see ``training/parallel``.
        eval_every: steps between two evaluations, each of which is also a checkpoint.
        max_new_tokens: cap on a generated transcript.
        text_tokens: predictions on each of three kinds of text, on which forgetting is measured.
        spectra: whether κ and singular vectors of the trained tensors are compared before and
            after each run.
        corpora: one's own corpora, name → ``folder`` of recordings (relative to the profile's
            file), ``language`` (``en``, ``de``, …) and ``text``, the transcripts' column; see
            ``kappa_lib.speech.sources``. None in the profiles of this package.
        optimiser: ``adamw``, or ``adafactor`` with small states, see ``training/optim``.
        schedule: of the learning rate after its warm-up, ``decaying`` or ``constant``.
        warm_dropout: share of the encoder's features that a step of the warm start does not see.
        shared_start: whether all seeds start from one warm start, that of ``seed``; else each has
            its own.
        task: ``speech``, or ``vowels``, a task of text alone, see ``training/text_task``.
        lora_rank: 0 to train the tensors themselves; else LoRA's matrices beside them, with as
            many parameters as this rank has on every matrix of the decoder.
        stop_loss: end a run where its smoothed training loss, nats a token, has come down to
            this; 0 for all ``steps``.
        arm_lr: arm → its own peak learning rate.
        tune_utterances: corpus → how many of its training items fine-tuning sees, where that is
            not all on which the adaptor was warmed up.
        gauge: arm → how its model is changed, with the same function, before it is trained: ``of``,
            the rule of its tensors, and ``dose`` (:func:`kappa_lib.spectra.gauge.regauge`, drawn
            anew for each seed), ``flip``, or neither; ``rms``: whether each tensor's rate is divided
            by the root mean square of its factors' inverse.
    """

    profile: str
    model: str
    encoder: str
    dtype: str
    device: str
    share: float
    arms: list[str]
    seed: int
    seeds: list[int]
    train_utterances: dict[str, int]
    test_utterances: dict[str, int]
    warm_steps: int
    warm_batch: int
    warm_lr: float
    steps: int
    batch: int
    lr: float
    parallel: str
    eval_every: int
    max_new_tokens: int
    text_tokens: int
    spectra: bool
    corpora: dict[str, dict[str, str]] = field(default_factory=dict)
    optimiser: str = "adamw"
    schedule: str = "decaying"
    warm_dropout: float = 0.0
    shared_start: bool = False
    task: str = "speech"
    lora_rank: int = 0
    stop_loss: float = 0.0
    arm_lr: dict[str, float] = field(default_factory=dict)
    tune_utterances: dict[str, int] = field(default_factory=dict)
    gauge: dict[str, dict[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def require(condition: Any, key: str, wanted: str) -> None:
            _require(condition, key, getattr(self, key), wanted)

        for item in fields(self):
            kind = str(item.type) if get_args(item.type) else item.type.__name__
            require(fits(getattr(self, item.name), item.type), item.name, f"of type {kind}")
        require(_NAME.fullmatch(self.profile), "profile", "a plain name")
        for name, choices in _CHOICES.items():
            require(getattr(self, name) in choices, name, " or ".join(choices))
        for name in ("warm_batch", "steps", "batch", "eval_every", "max_new_tokens", "text_tokens"):
            require(getattr(self, name) > 0, name, "a positive whole number")
        for name in ("seed", "warm_steps", "lora_rank", "stop_loss"):
            require(getattr(self, name) >= 0, name, "0 or more")
        for name in ("warm_lr", "lr"):
            require(0 < getattr(self, name) < math.inf, name, "a positive number")
        require(self.seeds, "seeds", "at least one seed")
        require(min(self.seeds) >= 0, "seeds", "0 or more, each")
        require(0 <= self.warm_dropout < 1, "warm_dropout", "in [0, 1)")
        require(0 < self.share <= 0.5, "share", "in (0, 0.5], so that arms can differ")
        require(self.arms, "arms", "at least one selection")
        require(all(map(_NAME.fullmatch, self.arms)), "arms", "a list of plain names")
        rates = all(0 < x < math.inf for x in self.arm_lr.values())
        require(rates, "arm_lr", "a positive number for some of the arms")
        whole = "false with a lora_rank: LoRA leaves the tensors as they are"
        require(not (self.lora_rank and self.spectra), "spectra", whole)
        alone = (self.task != "speech" or self.lora_rank) and "adaptor_only" in self.arms
        require(not alone, "arms", "without adaptor_only, for no adaptor is trained")
        states = "adamw with parallel: fsdp2, which shards AdamW's states anyway"
        require(self.optimiser == "adamw" or self.parallel == "ddp", "optimiser", states)
        _check_corpora(self.corpora)
        known = [*CORPORA, *self.corpora]
        for name in ("train_utterances", "test_utterances", "tune_utterances"):
            counts = getattr(self, name)
            possible = set(counts) <= set(known) and all(n >= 0 for n in counts.values())
            require(possible, name, f"counts for some of {', '.join(known)}")

    @property
    def folder(self) -> Path:
        """Where this profile's results go."""
        return paths.results(self.profile)

    def peak(self, arm: str) -> float:
        """The peak learning rate of an arm."""
        return self.arm_lr.get(arm, self.lr)

    def language(self, corpus: str) -> str:
        """Language of a corpus, which decides how its transcripts are compared."""
        return CORPORA.get(corpus) or self.corpora[corpus]["language"]

    def values(self, *names: str) -> dict[str, Any]:
        """The named settings (all, without names) as a plain dictionary, for a stage's inputs."""
        everything = asdict(self)
        return {name: everything[name] for name in names} if names else everything

    def added(self, *names: str) -> dict[str, Any]:
        """Those of the later settings (all, without names) that are not as they always were.

        What decides a run names only these, so that earlier runs stay the same runs.
        """
        values = self.values(*(names or _ADDED))
        return {name: value for name, value in values.items() if value != _ADDED[name]}


# Settings with a default, and what runs from before them did; corpora were never without one.
_ADDED = {
    item.name: item.default_factory() if item.default is MISSING else item.default
    for item in fields(Profile)
    if item.name != "corpora" and (item.default, item.default_factory) != (MISSING, MISSING)
}


def _require(condition: Any, key: str, value: Any, wanted: str) -> None:
    if not condition:
        raise InputError(f"profile key {key!r} is {shown(value)}", f"it has to be {wanted}")


def parse_setting(text: str) -> tuple[str, Any]:
    """Key and value of a ``--set KEY=VALUE``, the value written as in a profile's YAML.

    Raises:
        InputError: without ``=``, or with a value that is not YAML.
    """
    key, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"--set {text}", "write it as KEY=VALUE, for instance steps=40")
    return key, parse(value, f"--set {text}", loads=yaml.safe_load)


def _check_corpora(corpora: dict[str, dict[str, str]]) -> None:
    for name, settings in corpora.items():
        key = f"corpora: {name}"
        fits = re.fullmatch(r"[A-Za-z0-9_-]+", name) and name not in CORPORA
        _require(fits, key, name, f"letters, digits, - and _, and none of {', '.join(CORPORA)}")
        wanted = "a folder, a language (en, de, ...) and text, the transcripts' column"
        _require(set(settings) == {"folder", "language", "text"}, key, settings, wanted)
        fits = re.fullmatch("[a-z]{2,3}", settings["language"])
        _require(fits, f"{key}: language", settings["language"], "a code, for instance en or de")


def _anchored(profile: Profile, keys: Collection[str], folder: Path) -> Profile:
    """The profile with the paths among some of its values absolute, where relative to ``folder``.

    Notebooks work in their own folder, where a relative path leads elsewhere.
    """
    found: dict[str, Any] = {}
    for key in {"model", "encoder"}.intersection(keys):
        if (place := folder / paths.expanded(getattr(profile, key))).is_dir():
            found[key] = str(place)
    if "corpora" in keys:
        found["corpora"] = {
            name: own | {"folder": str(folder / paths.expanded(own["folder"]))}
            for name, own in profile.corpora.items()
        }
    return replace(profile, **found)


def _files() -> dict[str, Path]:
    """Name → file of the profiles that need no path: the package's and ``notebooks/profiles``'.

    A file in the clone's ``notebooks/profiles`` hides one of the same name in the package.
    """
    folders = (paths.DATA / "profiles", paths.OWN_PROFILES)
    return {path.stem: path for folder in folders for path in folder.glob("*.yaml")}


def names() -> list[str]:
    """Names of the profiles that need no path."""
    return sorted(_files())


def find(name: str) -> Path:
    """The YAML file of a profile, given its name or, ending in ``.yaml``, its path.

    Raises:
        InputError: there is none.
    """
    if name.endswith((".yaml", ".yml")):
        path = paths.expanded(name).absolute()
        if path.is_file():
            return path.resolve()
        raise InputError(f"there is no profile file {path}", "check the path")
    if path := _files().get(name):
        return path
    raise InputError(
        f"there is no profile {name!r}",
        f"use one of {', '.join(names())}, or the path of a YAML file",
    )


def load(name: str, **overrides: Any) -> Profile:
    """Read a profile's YAML file (see :func:`find`) and replace some of its values.

    Raises:
        InputError: unknown profile, unknown or missing key, value of a wrong type or range, or a
            file that names its results folder otherwise than itself.
    """
    path = find(name)
    values = parse(path.read_bytes(), path.name, dict[str, object], yaml.safe_load)
    if values.get("profile", path.stem) != path.stem:
        # A copy that kept its original's name would write over the original's results.
        raise InputError(
            f"{path}: its key profile is {shown(values['profile'])}", f"write profile: {path.stem}"
        )
    known = {item.name for item in fields(Profile)}
    if unknown := sorted((set(values) | set(overrides)) - known):
        raise InputError(
            f"{path.name}: unknown profile key {', '.join(map(repr, unknown))}",
            f"the keys are {', '.join(sorted(known))}",
        )
    if missing := sorted(known - {"corpora", *_ADDED} - set(values)):
        raise InputError(f"{path.name}: missing profile key {', '.join(missing)}", "add it")
    filed = _anchored(Profile(**values), values, path.parent)
    return _anchored(replace(filed, **overrides), overrides, Path.cwd())


def from_notebook(namespace: Mapping[str, Any]) -> Profile:
    """The profile that a notebook's parameters cell describes.

    The cell names a profile and any of its keys; its values win over the profile's file, so
    that editing the cell in JupyterLab has the effect that the reader expects.

    Args:
        namespace: the notebook's ``globals()``.
    """
    keys = [item.name for item in fields(Profile) if item.name in namespace]
    values = {key: namespace[key] for key in keys}
    return load(values.pop("profile"), **values)
