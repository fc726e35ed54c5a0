"""How much speech a profile asks for, and how long it is for the language model."""

from dataclasses import dataclass

from kappa_lib.profiles import Profile
from kappa_lib.training.model import STACK

FRAMES = 50  # a second, of every Whisper encoder
PROMPT = 40  # positions of the chat template around the audio, rounded up
TOKENS_PER_SECOND = 4.0  # of transcript, rounded up; three words a second


@dataclass(frozen=True)
class CorpusSize:
    """Mean and greatest length of a corpus' utterances in seconds."""

    mean: float
    longest: float


# Real corpora: hours over utterances of their training parts (100.6 h / 28,539 and
# 1,966.5 h / 469,942), cut at the encoder's window. Synthetic ones: what was synthesised.
SECONDS = {
    "librispeech": CorpusSize(12.7, 30.0),
    "mls_german": CorpusSize(15.1, 30.0),
    "de": CorpusSize(3.0, 6.0),
    "en": CorpusSize(3.0, 6.0),
    "en_human": CorpusSize(2.0, 16.0),
}


@dataclass(frozen=True)
class Workload:
    """Lengths in positions of the language model, from a profile's mix of corpora.

    Attributes:
        mean, longest: positions of a training utterance, prompt and transcript included.
        labels: mean transcript tokens of a training utterance.
        seconds: of all training and test audio.
        tests: test utterances; ``test_positions`` their mean length.
    """

    mean: float
    longest: float
    labels: float
    seconds: float
    tests: int
    test_positions: float


def positions(seconds: float) -> float:
    """Positions an utterance takes: audio, chat template, transcript."""
    return seconds * FRAMES / STACK + PROMPT + seconds * TOKENS_PER_SECOND


def workload(profile: Profile) -> Workload:
    """What the profile's corpora mean for the language model."""
    train, test = profile.train_utterances, profile.test_utterances
    lengths = SECONDS | {name: _measured(own) for name, own in profile.corpora.items()}
    spoken = _mean_seconds(train, lengths)
    heard = _mean_seconds(test, lengths)
    present = [lengths[c].longest for c, n in train.items() if n]
    return Workload(
        mean=positions(spoken),
        longest=positions(max(present, default=0.0)),
        labels=spoken * TOKENS_PER_SECOND,
        seconds=spoken * sum(train.values()) + heard * sum(test.values()),
        tests=sum(test.values()),
        test_positions=positions(heard),
    )


def _mean_seconds(counts: dict[str, int], lengths: dict[str, CorpusSize]) -> float:
    total = sum(counts.values())
    return sum(lengths[c].mean * n for c, n in counts.items()) / total if total else 0.0


def _measured(own: dict[str, str]) -> CorpusSize:
    """Lengths of the recordings in a folder of one's own."""
    from kappa_lib.speech.own_speech import OwnSpeech  # heavy, and most profiles have none

    return CorpusSize(*OwnSpeech(**own).seconds())
