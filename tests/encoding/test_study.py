import pytest
import tiny
import torch

from kappa_lib.encoding.study import Settings, of_texts
from kappa_lib.errors import InputError
from kappa_lib.text import bundled_text
from kappa_lib.training.evaluation import KINDS

WINDOWS = Settings(input_windows=2, input_length=16, blocks=3, length=8)


def whole(kind):
    return tiny.tokenizer()(bundled_text(kind), add_special_tokens=False)["input_ids"]


def test_text_windows_lie_where_they_should_and_predict_the_next_token():
    found = of_texts(tiny.tokenizer(), WINDOWS)
    ids = whole("german")
    (read,) = found.inputs
    texts = [whole(kind) for kind in KINDS]  # in whose order the windows lie
    assert read.inputs["input_ids"].reshape(3, 32).tolist() == [text[:32] for text in texts]
    assert read.inputs["input_ids"][2:4].flatten().tolist() == ids[:32]
    assert len(found.blocks) == 3
    ((block,), *_) = found.blocks[1:]
    assert block.targets.tolist() == [text[32 + 10 : 32 + 18] for text in texts]
    assert block.inputs["input_ids"][1].tolist() == ids[32 + 9 : 32 + 17]
    assert block.targets[1].tolist() == ids[32 + 10 : 32 + 18]


def test_windows_begin_with_the_token_that_a_tokenizer_begins_texts_with():
    class Beginning:
        """The default tokenizer, but with a token at the beginning of a text."""

        inner = tiny.tokenizer()

        def __call__(self, text, add_special_tokens=True):
            found = self.inner(text, add_special_tokens=False)["input_ids"]
            return {"input_ids": [7] * add_special_tokens + found}

    plain, begun = (of_texts(t, WINDOWS) for t in (tiny.tokenizer(), Beginning()))
    for before, after in zip(
        plain.inputs + plain.windows, begun.inputs + begun.windows, strict=True
    ):
        given = after.inputs["input_ids"]
        assert (given[:, 0] == 7).all()
        assert torch.equal(given[:, 1:], before.inputs["input_ids"])
        assert torch.equal(after.targets, before.targets)


def test_no_token_is_read_twice():
    with pytest.raises(InputError, match="ask for fewer windows"):
        of_texts(tiny.tokenizer(), Settings(input_windows=1000))
    count = min(len(whole(kind)) for kind in KINDS)
    fits = Settings(1, 16, (count - 16) // 9, 8)
    assert len(of_texts(tiny.tokenizer(), fits).blocks) == fits.blocks
    with pytest.raises(InputError, match="ask for fewer windows"):
        of_texts(tiny.tokenizer(), Settings(1, 16, fits.blocks + 1, 8))
