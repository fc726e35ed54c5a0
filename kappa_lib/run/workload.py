"""What a profile asks of a language model: lengths of its utterances, operations, activations."""

from dataclasses import dataclass

from kappa_lib.profiles import Profile
from kappa_lib.training.model import STACK
from kappa_lib.weights.sizes import LanguageModel

FRAMES = 50  # a second, of every Whisper encoder
PROMPT = 40  # positions of the chat template around the audio, rounded up
TOKENS_PER_SECOND = 4.0  # of transcript, rounded up; three words a second
# Mean and greatest seconds of an utterance. Real corpora: hours over utterances of their training
# parts (100.6 h / 28,539 and 1,966.5 h / 469,942), cut at the encoder's window. Synthetic ones:
# what was synthesised.
SECONDS = {
    "librispeech": (12.7, 30.0),
    "mls_german": (15.1, 30.0),
    "de": (3.0, 6.0),
    "en": (3.0, 6.0),
    "en_human": (2.0, 16.0),
    "de_open": (3.5, 8.0),
    "en_open": (2.4, 6.6),
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


def workload(profile: Profile) -> Workload:
    """What the profile's corpora mean for the language model."""
    lengths = dict(SECONDS)
    for name, own in profile.corpora.items():
        from kappa_lib.speech.sources import OwnSpeech  # heavy, and most profiles have none

        lengths[name] = OwnSpeech(**own).seconds()

    def positions(seconds: float) -> float:  # of audio, chat template, transcript
        return seconds * FRAMES / STACK + PROMPT + seconds * TOKENS_PER_SECOND

    train, test = profile.train_utterances, profile.test_utterances
    spoken, heard = (sum(lengths[c][0] * n for c, n in counts.items()) for counts in (train, test))
    mean = spoken / max(1, sum(train.values()))
    return Workload(
        mean=positions(mean),
        longest=positions(max((lengths[c][1] for c, n in train.items() if n), default=0.0)),
        labels=mean * TOKENS_PER_SECOND,
        seconds=spoken + heard,
        tests=sum(test.values()),
        test_positions=positions(heard / max(1, sum(test.values()))),
    )


def forward(llm: LanguageModel, length: float) -> float:
    """Operations a position of the decoder layers forwards, in a text of ``length``."""
    queries = llm.shapes["self_attn.q_proj"][0]
    attention = 4.0 * llm.layers * queries * length / 2  # causal: half the square
    return 2.0 * llm.matrices + attention


def activations(
    llm: LanguageModel, size: int, load: Workload, batch: int, checkpointing: bool
) -> float:
    """Bytes of activations at the end of a forward pass over the longest utterances.

    A decoder layer, all its weights trained, keeps for each position eight times the model's width
    (both norms' inputs and outputs, the query and its rotation, the attention's output as computed
    and as projected), two of these in fp32; the keys and the values; four times the MLP's width.
    Counted off the tensors that autograd saves for Llama with fused attention; a layer with fewer
    trained weights keeps less. With checkpointing each keeps its input, and one layer at a time is
    computed again. The output layer adds, at label positions alone, logits in the weights' type
    and twice in fp32 (softmax and its gradient).
    """
    tokens = batch * load.longest
    widths = 8 * llm.width + 2 * llm.keys + 4 * llm.inner
    layer = tokens * (size * widths + 2 * (4 - size) * llm.width)
    inputs = llm.layers * tokens * llm.width * size
    kept = inputs + layer if checkpointing else llm.layers * layer
    labels = tokens * load.labels / load.mean
    return kept + labels * llm.vocabulary * (size + 8)
