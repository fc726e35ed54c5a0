"""A profile: one validated model that says how large a run is. Same code, other values."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, Field, PrivateAttr, model_validator

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.files import from_yaml, parse, validated

# The corpora that need no folder of one's own, and their languages.
CORPORA = {"de": "de", "en": "en", "de_open": "de", "en_open": "en", "en_human": "en"}
CORPORA |= {"en_actors": "en", "librispeech": "en", "mls_german": "de"}
# Steps over which a loss is averaged before it may stop a run; an evaluation begins anew.
SMOOTHED = 20
_OF_ARMS = ("arm_lr", "gauge", "lora")  # keys that say something of single arms
_REFERENCE = "reference/"
_FILES = paths.DATA / "profiles"

Name = Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")]  # of profiles and arms: they name files
Count = Annotated[int, Field(gt=0, lt=2**63)]
Whole = Annotated[int, Field(ge=0, lt=2**63)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Utterances = dict[str, Whole]
# A corpus of one's own: a folder of recordings (relative to the profile's file), a language (en,
# de, …) and text, the transcripts' column; see ``speech/sources``.
CorpusKey = Literal["folder", "language", "text"]
Corpus = dict[CorpusKey, str]


class Gauged(BaseModel, frozen=True, extra="forbid", strict=True):
    """An arm's model in another gauge: the same function, see ``spectra/gauge``."""

    of: Name  # the rule of the arm's tensors
    dose: Whole = 0  # factors of 2^±dose, drawn anew for each seed
    flip: bool = False  # or the gauge that makes the MLP's κ largest; tensors are chosen in it
    rms: bool = False  # each tensor's rate is divided by what the gauge does to a step's size


class OwnLora(BaseModel, frozen=True, extra="forbid", strict=True):
    """An arm's LoRA of its own rank and α, whatever size the other arms have."""

    of: Name  # the rule of the arm's tensors
    rank: Count
    alpha: Rate


class Profile(BaseModel, frozen=True, extra="forbid", strict=True):
    """Every setting of a run; the YAML files in ``data/profiles`` hold a value for each.

    Settings with a default came later: a file without them, and a run from before them, have it.
    """

    profile: Name  # also the name of its folder under ``results/``
    model: str  # ``smollm2-135m`` (a pinned asset), a folder (from the profile's file), or a hub id
    encoder: str  # ``whisper-base`` (a pinned asset), a folder, or a hub id
    # Of the frozen weights; what trains is fp32 always. ``auto`` is bfloat16 where the device has
    # units for it.
    dtype: Literal["auto", "float32", "bfloat16"]
    device: Literal["auto", "cpu", "cuda"]  # ``auto``: CUDA where there is one
    # Of the decoder's matrices that an arm trains; the paper's is 100/224. At most half, so that
    # arms can differ.
    share: float = Field(gt=0, le=0.5)
    arms: list[Name] = Field(min_length=1)  # see ``spectra/arms``
    seed: Whole  # of everything that is drawn once: speech, split, random selections
    seeds: list[Whole] = Field(min_length=1)  # one training run per arm for each
    train_utterances: Utterances  # corpus → number of training items
    test_utterances: Utterances
    warm_steps: Whole  # the adaptor's CTC warm start
    warm_batch: Count
    warm_lr: Rate
    steps: Count  # of fine-tuning
    batch: Count  # utterances per step
    lr: Rate  # at its peak
    eval_every: Count  # steps between two evaluations, each of which is also a checkpoint
    max_new_tokens: Count  # of a generated transcript
    text_tokens: Count  # predictions on each of three kinds of text, to measure forgetting
    spectra: bool  # whether κ and singular vectors are compared before and after each run
    corpora: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], Corpus] = {}
    schedule: Literal["decaying", "constant"] = "decaying"  # of the rate after its warm-up
    warm_dropout: float = Field(0.0, ge=0, lt=1)  # share of features hidden from a warm-up step
    shared_start: bool = False  # all seeds start from the warm start of ``seed``
    task: Literal["speech", "vowels"] = "speech"  # ``vowels``: see ``training/text_task``
    # 0 to train the tensors themselves; else LoRA's matrices beside them, with as many parameters
    # as this rank has on every matrix of the decoder.
    lora_rank: Whole = 0
    # A run ends where its smoothed training loss (nats per token) is down to this; 0: after steps.
    stop_loss: float = Field(0.0, ge=0, allow_inf_nan=False)
    levels: list[Rate] = []  # higher losses at which a run with a stop_loss is evaluated, too
    arm_lr: dict[str, Rate] = {}  # arm → its own peak learning rate
    gauge: dict[str, Gauged] = {}  # arm → how its model is changed before it is trained
    lora: dict[str, OwnLora] = {}  # arm → LoRA in place of that of ``lora_rank``
    tune_utterances: Utterances = {}  # corpus → training items for fine-tuning, where not all

    _source: str = PrivateAttr("")  # what :func:`load` was given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.lora_rank and self.spectra:
            raise ValueError("spectra has to be false with a lora_rank: LoRA leaves tensors alone")
        if self.lora and not self.lora_rank:
            raise ValueError("lora: without a lora_rank the other arms have no LoRA")
        silent = "adaptor_only" in map(self.rule, self.arms)
        if (self.task != "speech" or self.lora_rank) and silent:
            raise ValueError("arms: without adaptor_only, since no adaptor is trained")
        if self.stop_loss and self.eval_every < SMOOTHED:
            why = "the loss is averaged over that many steps between two evaluations"
            raise ValueError(f"eval_every has to be at least {SMOOTHED} with a stop_loss: {why}")
        if self.levels and not 0 < self.stop_loss < min(self.levels):
            raise ValueError("levels have to lie above stop_loss, at which a run ends")
        for key in _OF_ARMS:
            if unknown := set(getattr(self, key)) - set(self.arms):
                raise ValueError(f"{key}: {', '.join(sorted(unknown))} is not among the arms")
        if both := set(self.gauge) & set(self.lora):
            raise ValueError(f"lora: {', '.join(sorted(both))} is in gauge, too; name it in one")
        if taken := set(self.corpora) & set(CORPORA):
            raise ValueError(f"corpora: {', '.join(sorted(taken))} has another meaning")
        for name, own in self.corpora.items():
            if missing := {*get_args(CorpusKey)} - {*own}:
                raise ValueError(f"corpora: {name} has no {', '.join(sorted(missing))}")
            if not re.fullmatch("[a-z]{2,3}", own["language"]):
                raise ValueError(f"corpora: {name}: language has to be a code, for instance en")
        for part in ("train_utterances", "test_utterances", "tune_utterances"):
            if unknown := set(getattr(self, part)) - {*CORPORA, *self.corpora}:
                known = ", ".join([*CORPORA, *self.corpora])
                raise ValueError(f"{part}: {', '.join(sorted(unknown))} is none of {known}")
        return self

    @property
    def folder(self) -> Path:
        """Where its runs are: ``results/<profile>``, or the committed ones of a reference."""
        if self._source.startswith(_REFERENCE):
            return paths.REFERENCE / self._source.removeprefix(_REFERENCE)
        return paths.results(self.profile)

    @property
    def output(self) -> Path:
        """Where figures, claims and reports go: beside the runs, if those are not committed."""
        if self._source.startswith(_REFERENCE):
            return paths.results("shown") / self._source.removeprefix(_REFERENCE)
        return self.folder

    def rule(self, arm: str) -> str:
        """The rule of an arm's tensors; another gauge or LoRA makes another arm of the same."""
        changed = self.gauge.get(arm) or self.lora.get(arm)
        return changed.of if changed else arm

    def language(self, corpus: str) -> str:
        """Language of a corpus, which decides how its transcripts are compared."""
        return CORPORA.get(corpus) or self.corpora[corpus]["language"]


def parse_setting(text: str) -> tuple[str, Any]:
    """Key and value of a ``--set KEY=VALUE``, the value written as in a profile's YAML."""
    key, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"--set {text}", "write it as KEY=VALUE, for instance steps=40")
    if key == "profile":  # its runs would be kept among those of the other
        raise InputError(f"--set {text}", "name it by --profile, or copy the file under a new name")
    return key, parse(value, f"--set {text}", loads=from_yaml)


def names() -> list[str]:
    """Names of the profiles that need no path."""
    return sorted(path.stem for path in _FILES.glob("*.yaml"))


def find(name: str) -> Path:
    """The YAML file of a profile, given its name or, ending in ``.yaml``, its path."""
    if name in names():
        return _FILES / f"{name}.yaml"
    path = paths.expanded(name).absolute()
    if name.endswith((".yaml", ".yml")) and path.is_file():
        return path.resolve()
    known = f"use one of {', '.join(names())}, or the path of a YAML file"
    raise InputError(f"there is no profile {name!r}", known)


def load(source: str | Path | Mapping[str, Any], **overrides: Any) -> Profile:
    """Read a profile and replace some of its values.

    Args:
        source: a profile's name; the path of its YAML file; ``reference/<name>`` for the committed
            run of a profile, with the arms and seeds that it has; or a notebook's ``globals()``,
            whose ``profile`` is one of these, and becomes the :func:`current` one. A notebook's
            other profile keys win over the file; a committed run stays as it is.
        overrides: values by key, of no committed run; a relative path among them starts from the
            working folder.

    Raises:
        InputError: unknown profile, unknown or missing key, value of a wrong type or range, a
            file that names its results folder otherwise than itself, or no committed run.
    """
    if isinstance(source, Mapping):
        return _of_notebook(source, overrides)
    source = str(source)
    committed = source.startswith(_REFERENCE)
    if committed and overrides:
        name = source.removeprefix(_REFERENCE)
        raise InputError(f"{source}: a committed run stays as it is", f"take profile {name}")
    profile = _committed(source) if committed else _of_file(find(source), overrides)
    profile._source = source
    return profile


_current: Profile | None = None


def current() -> Profile:
    """The profile that this process' notebook loaded last."""
    if _current is None:
        raise InputError("no profile was loaded", "load one first: load_profile(globals())")
    return _current


def _of_notebook(namespace: Mapping[str, Any], overrides: dict[str, Any]) -> Profile:
    global _current
    source = namespace["profile"]
    if isinstance(source, Profile):  # the cell is executed again
        source = source._source
    values = {key: namespace[key] for key in Profile.model_fields if key in namespace}
    del values["profile"]
    if str(source).startswith(_REFERENCE):
        values = {}
    _current = load(source, **values | overrides)
    return _current


def _committed(source: str) -> Profile:
    name = source.removeprefix(_REFERENCE)
    planned, folder = _of_file(find(name), {}), paths.REFERENCE / name
    finished = {path.parent.name for path in folder.glob("runs/*/provenance.json")}
    runs = [(a, s) for a in planned.arms for s in planned.seeds if f"{a}-seed{s}" in finished]
    if not runs:
        raise InputError(f"{folder}: no committed run", "name a folder of results/reference")
    there = {"arms": list(dict.fromkeys(a for a, _ in runs)), "seeds": sorted({s for _, s in runs})}
    for key in _OF_ARMS:
        of_arms = getattr(planned, key).items()
        there[key] = {arm: own for arm, own in of_arms if arm in there["arms"]}
    return planned.model_copy(update=there)


def _of_file(path: Path, overrides: dict[str, Any]) -> Profile:
    values = parse(path.read_bytes(), path.name, dict[str, object], from_yaml)
    if values.get("profile", path.stem) != path.stem:
        # A copy that kept its original's name would write over the original's results.
        raise InputError(f"{path}: its key profile is another", f"write profile: {path.stem}")
    remedy = "kappa_lib/profiles.py says what each key means"
    profile = validated(values | overrides, path.name, Profile, remedy)

    def absolute(place: str, key: str) -> Path:
        """Notebooks work in their own folder, where a relative path leads elsewhere."""
        return (Path.cwd() if key in overrides else path.parent) / paths.expanded(place)

    places = {key: absolute(getattr(profile, key), key) for key in ("model", "encoder")}
    found: dict[str, Any] = {key: str(place) for key, place in places.items() if place.is_dir()}
    own = profile.corpora.items()
    found["corpora"] = {n: c | {"folder": str(absolute(c["folder"], "corpora"))} for n, c in own}
    return profile.model_copy(update=found)
