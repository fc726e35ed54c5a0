"""A profile: one checked dataclass that says how large a run is. Same code, other values."""

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

import yaml

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.files import fits, parse, shown

DTYPES = ("auto", "float32", "bfloat16")
OPTIMISERS = ("adamw", "adafactor")
SCHEDULES = ("decaying", "constant")
WAYS = ("ddp", "fsdp2")
TASKS = ("speech", "vowels")
# Of profiles and arms, which name files.
_NAME = re.compile(r"\w[\w.-]{0,99}")
# The corpora that need no folder of one's own, and their languages.
CORPORA = {
    **{"de": "de", "en": "en", "de_open": "de", "en_open": "en", "en_human": "en"},
    **{"librispeech": "en", "mls_german": "de"},
}
_OWN_KEYS = {"folder", "language", "text"}


@dataclass(frozen=True)
class Profile:
    """Every setting of a run; the YAML files in ``data/profiles`` hold a value for each.

    Settings with a default came later: a file without them, and a run from before them, have it.

    Args:
        profile: its name, and the name of its folder under ``results/``.
        model: ``smollm2-135m`` (a pinned asset), a local folder, or a model hub id.
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
            ``kappa_lib.speech.own_speech``. None in the profiles of this package.
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

    def __post_init__(self) -> None:
        _check_types(self)
        _require(_NAME.fullmatch(self.profile), "profile", self.profile, "a plain name")
        for arm in self.arms:
            _require(_NAME.fullmatch(arm), "arms", arm, "a list of plain names")
        for name in ("warm_batch", "steps", "batch", "eval_every", "max_new_tokens", "text_tokens"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a positive whole number")
        for name in ("seed", "warm_steps", "lora_rank", "stop_loss"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(min(self.seeds, default=0) >= 0, "seeds", self.seeds, "0 or more, each")
        _require(0 <= self.warm_dropout < 1, "warm_dropout", self.warm_dropout, "in [0, 1)")
        for name in ("warm_lr", "lr"):
            value = getattr(self, name)
            _require(0 < value < math.inf, name, value, "a positive number")
        _require(0 < self.share <= 0.5, "share", self.share, "in (0, 0.5], so that arms can differ")
        _require(self.dtype in DTYPES, "dtype", self.dtype, ", ".join(DTYPES))
        _require(self.device in ("auto", "cpu", "cuda"), "device", self.device, "auto, cpu or cuda")
        _require(self.schedule in SCHEDULES, "schedule", self.schedule, " or ".join(SCHEDULES))
        _require(self.optimiser in OPTIMISERS, "optimiser", self.optimiser, " or ".join(OPTIMISERS))
        _require(self.parallel in WAYS, "parallel", self.parallel, " or ".join(WAYS))
        _require(self.task in TASKS, "task", self.task, " or ".join(TASKS))
        whole = "false with a lora_rank: LoRA leaves the tensors as they are"
        _require(not (self.lora_rank and self.spectra), "spectra", self.spectra, whole)
        alone = (self.task != "speech" or self.lora_rank) and "adaptor_only" in self.arms
        _require(not alone, "arms", self.arms, "without adaptor_only, for no adaptor is trained")
        rates = set(self.arm_lr) <= set(self.arms) and all(x > 0 for x in self.arm_lr.values())
        _require(rates, "arm_lr", self.arm_lr, "a positive number for some of the arms")
        _require(
            self.optimiser == "adamw" or self.parallel == "ddp",
            "optimiser",
            self.optimiser,
            "adamw with parallel: fsdp2, which shards AdamW's states anyway",
        )
        _require(self.arms, "arms", self.arms, "at least one selection")
        _require(self.seeds, "seeds", self.seeds, "at least one seed")
        _check_corpora(self.corpora)
        for name in ("train_utterances", "test_utterances", "tune_utterances"):
            value, known = getattr(self, name), [*CORPORA, *self.corpora]
            fits = set(value) <= set(known) and all(n >= 0 for n in value.values())
            _require(fits, name, value, f"counts for some of {', '.join(known)}")

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


def _check_types(profile: Profile) -> None:
    for item in fields(profile):
        value = getattr(profile, item.name)
        kind = str(item.type) if get_args(item.type) else item.type.__name__
        _require(fits(value, item.type), item.name, value, f"of type {kind}")


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
        fits = re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) and name not in CORPORA
        _require(fits, key, name, f"letters, digits, - and _, and none of {', '.join(CORPORA)}")
        wanted = "a folder, a language (en, de, ...) and text, the transcripts' column"
        fits = isinstance(settings, dict) and set(settings) == _OWN_KEYS
        _require(fits and all(isinstance(v, str) for v in settings.values()), key, settings, wanted)
        fits = re.fullmatch("[a-z]{2,3}", settings["language"])
        _require(fits, f"{key}: language", settings["language"], "a code, for instance en or de")


def _anchored(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The values with the folders of own corpora absolute, where they were relative to ``folder``.

    Notebooks work in their own folder, where a relative path leads elsewhere.
    """
    corpora = values.get("corpora")
    if not isinstance(corpora, dict):
        return dict(values)
    anchored = {
        name: {**own, "folder": str(folder / Path(own["folder"]).expanduser())}
        if isinstance(own, dict) and isinstance(own.get("folder"), str)
        else own
        for name, own in corpora.items()
    }
    return {**values, "corpora": anchored}


def names() -> list[str]:
    """Names of the profiles that need no path: the package's and ``notebooks/profiles``'."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")})


def _folders() -> tuple[Path, Path]:
    return paths.OWN_PROFILES, paths.DATA / "profiles"


def find(name: str) -> Path:
    """The YAML file of a profile, given its name or, ending in ``.yaml``, its path.

    A file in the clone's ``notebooks/profiles`` hides one of the same name in the package.

    Raises:
        InputError: there is none.
    """
    if name.endswith((".yaml", ".yml")):
        path = paths.expanded(name).absolute()
        if path.is_file():
            return path.resolve()
        raise InputError(f"there is no profile file {path}", "check the path")
    for folder in _folders() if _NAME.fullmatch(name) else ():
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
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
    return _build(_anchored(values, path.parent), path.name, _anchored(overrides, Path.cwd()))


def _build(values: Mapping[str, Any], source: str, overrides: Mapping[str, Any]) -> Profile:
    known = {item.name for item in fields(Profile)}
    unknown = sorted((set(values) | set(overrides)) - known)
    if unknown:
        raise InputError(
            f"{source}: unknown profile key {', '.join(map(repr, unknown))}",
            f"the keys are {', '.join(sorted(known))}",
        )
    missing = sorted(known - {"corpora", *_ADDED} - set(values))
    if missing:
        raise InputError(f"{source}: missing profile key {', '.join(missing)}", "add it")
    return replace(Profile(**values), **overrides)


def from_notebook(namespace: Mapping[str, Any]) -> Profile:
    """The profile that a notebook's parameters cell describes.

    The cell names a profile and any of its keys; its values win over the profile's file, so
    that editing the cell in JupyterLab has the effect that the reader expects.

    Args:
        namespace: the notebook's ``globals()``.
    """
    known = {item.name for item in fields(Profile)} - {"profile"}
    overrides = {name: namespace[name] for name in known if name in namespace}
    return load(namespace["profile"], **overrides)
