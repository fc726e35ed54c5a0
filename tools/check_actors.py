"""Compare transcripts of ``en_actors`` with Whisper base's, for results/reference/en_actors.json.

python -m tools.check_actors
"""

import ctranslate2
import numpy as np
import soxr
from tokenizers import Tokenizer

from kappa_lib import paths
from kappa_lib.files import write_json
from kappa_lib.speech import audio, corpora, encoder
from kappa_lib.speech.transcripts import word_error_rate, word_errors
from kappa_lib.weights import assets

CLIPS, SEED = 100, 0
LIKE = 0.34  # share of a clip's words in which the two may differ and still be the same line
PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


def heard(samples: np.ndarray, model: ctranslate2.models.Whisper, tokens: Tokenizer) -> str:
    """What Whisper base transcribes greedily; ``samples`` float32 ``(n,)`` at 16 kHz."""
    longest = int(encoder.RATE * encoder.MAX_SECONDS)
    mel = encoder.log_mel(np.pad(samples, (0, longest - samples.size)))
    view = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None]))
    prompt = [[tokens.token_to_id(name) for name in PROMPT]]
    return tokens.decode(model.generate(view, prompt, beam_size=1)[0].sequences_ids[0])


def agreement(rows: list[dict[str, str]]) -> dict[str, float]:
    """Word error rate of all clips and of those that are heard as the same line.

    Whisper invents words for laughter, a hundred and more in a clip.
    """
    pairs = [(row["transcript"], row["whisper"]) for row in rows]
    counts = [word_errors(*pair, "en") for pair in pairs]
    same = [
        pair for pair, (wrong, words) in zip(pairs, counts, strict=True) if wrong <= LIKE * words
    ]
    rate, of_same = (word_error_rate(*zip(*some, strict=True), "en") for some in (pairs, same))
    found = {"clips": len(rows), "same_line": len(same)}
    return found | {"word_error_rate": rate, "word_error_rate_of_same_lines": of_same}


def main() -> None:
    """Write how far the two agree, on clips drawn at random."""
    folder = assets.WHISPER_BASE.get()
    model = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="float32")
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
    every = corpora.prompts("en_actors")
    rows = []
    for index in np.random.default_rng(SEED).choice(len(every), CLIPS, replace=False):
        prompt = every[index]
        samples, rate = audio.read(corpora.sound(prompt.file))
        text = heard(soxr.resample(samples, rate, audio.RATE), model, tokens).strip()
        rows.append({"clip": prompt.file, "transcript": prompt.text, "whisper": text})
    found = {
        "command": "python -m tools.check_actors",
        "of": len(every),
        "minutes": round(sum(prompt.seconds for prompt in every) / 60, 1),
        "speakers": len({prompt.speaker for prompt in every}),
        **agreement(rows),
        "rows": rows,
    }
    write_json(paths.REFERENCE / "en_actors.json", found)
    print({key: value for key, value in found.items() if key != "rows"})


if __name__ == "__main__":
    main()
