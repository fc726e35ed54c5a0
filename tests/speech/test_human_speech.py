"""The Asterisk prompts: transcripts cleaned, recordings decoded."""

import numpy as np
import pytest

from kappa_lib.errors import AssetError
from kappa_lib.speech import human_speech
from kappa_lib.speech.audio import RATE
from kappa_lib.weights import assets


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[ascending tones]", ""),
        ("<beep ascending>", ""),
        ("(10 seconds of silence)", ""),
        ("...", ""),
        ("at [@]", "at"),
        ('IAX (note: does not say "2")', "IAX"),
        ("... extension ...", "extension"),
        ("...to lock, or unlock the conference.", "to lock, or unlock the conference."),
        ("press * to toggle pause", "press star to toggle pause"),
        ("All of our represenatives are busy.", "All of our representatives are busy."),
    ],
)
def test_what_is_said_remains(written, said):
    assert human_speech.clean(written) == said


def test_prompts_are_speech_with_words_and_not_too_long():
    prompts = human_speech.prompts()
    assert len(prompts) > 500
    assert max(p.seconds for p in prompts) <= human_speech.LONGEST
    files = {p.file.removesuffix(".g722") for p in prompts}
    assert not files & {"beep", "beeperr", "ascending-2tone", "tt-monkeys", "silence/1"}
    assert {"hello-world", "digits/7", "letters/at", "vm-intro"} <= files
    assert not [p for p in prompts if set(p.text) & set("[]<>()*#@")]


def test_a_recording_decodes_to_the_length_its_bytes_imply():
    try:
        folder = assets.human_recordings()
    except AssetError as error:
        pytest.skip(f"the human recordings cannot be had here: {error.what}")
    prompt = next(p for p in human_speech.prompts() if p.file == "hello-world.g722")
    speech = human_speech.decode_g722(folder / prompt.file)
    assert speech.dtype == np.float32
    assert speech.size / RATE == pytest.approx(prompt.seconds, abs=0.01)
    assert 0.05 < np.abs(speech).max() <= 1.0


def test_an_empty_or_absent_recording_is_refused(tmp_path):
    (tmp_path / "empty.g722").write_bytes(b"")
    for name in ("empty.g722", "absent.g722"):
        with pytest.raises(AssetError, match=name):
            human_speech.decode_g722(tmp_path / name)
