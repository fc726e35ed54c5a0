import pytest
import tiny
import torch
from torch.nn import functional

from kappa_lib.training.model import Adaptor, SpeechLLM, chat_prompt, positions, sinusoids
from kappa_lib.training.warm_start import new_adaptor


@pytest.fixture(scope="module")
def model():
    llm = tiny.llama()
    adaptor = new_adaptor(32, llm.get_input_embeddings().weight, seed=0)
    return SpeechLLM(llm, tiny.tokenizer(), adaptor).eval()


def features(*frames: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 32, generator=generator) for n in frames]


def test_adaptor_shapes_and_lengths():
    adaptor = Adaptor(32, 64, 0.1)
    output, lengths = adaptor(features(8, 13, 1))
    assert output.shape == (3, 4, 64)
    assert lengths.tolist() == [2, 4, 1] == [positions(n) for n in (8, 13, 1)]


def test_adaptor_output_is_as_large_as_embeddings_and_padding_does_not_change_it(model):
    alone, _ = model.adaptor(features(8))
    together, _ = model.adaptor([*features(8), torch.randn(40, 32)])
    torch.testing.assert_close(together[0, :2], alone[0], rtol=1e-4, atol=1e-6)
    output, _ = model.adaptor(features(40))
    sizes = [values.pow(2).mean().sqrt().item() for values in (output, model.embeddings.weight)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_positions_are_those_of_the_formula():
    table = sinusoids(5, 6)
    assert table[3, 2] == pytest.approx(torch.sin(torch.tensor(3 / 10_000 ** (2 / 6))))
    assert table[3, 3] == pytest.approx(torch.cos(torch.tensor(3 / 10_000 ** (2 / 6))))


def test_loss_equals_the_full_model_one_utterance_at_a_time(model):
    """The output layer at labels only, and padding, change nothing."""
    speech, texts = features(9, 22), ["Anna kauft", "Victor sells two old lamps"]
    total = count = 0
    with torch.no_grad():
        for one, text in zip(speech, texts, strict=True):
            audio, _ = model.adaptor([one])
            labels = torch.tensor(model.targets(text))
            parts = [
                model.embeddings(torch.tensor(model.before)),
                audio[0],
                model.embeddings(torch.tensor(model.after)),
                model.embeddings(labels),
            ]
            logits = model.llm(inputs_embeds=torch.cat(parts)[None]).logits[0]
            start = sum(map(len, parts[:3]))
            # shifted by one: the position before a label predicts it
            predicted = logits[start - 1 : start - 1 + len(labels)]
            total += functional.cross_entropy(predicted, labels, reduction="sum").item()
            count += len(labels)
        loss, tokens = model(speech, texts)
    assert tokens == count
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


@pytest.fixture(scope="module")
def talkative():
    """A model that writes something else for every utterance and at every place."""
    llm = tiny.llama()
    for parameter in llm.parameters():
        if parameter.ndim == 2:
            parameter.mul_(5)
    adaptor = new_adaptor(32, llm.get_input_embeddings().weight, seed=0)
    return SpeechLLM(llm, tiny.tokenizer(), adaptor).eval()


def test_batched_transcripts_equal_single_ones(talkative):
    speech = features(9, 30, 17)
    together = talkative.transcribe(speech, max_new_tokens=5)
    assert together == [talkative.transcribe([one], max_new_tokens=5)[0] for one in speech]
    assert len(set(together)) == 3


def test_the_output_layer_is_given_a_matrix_with_a_row_an_utterance(talkative):
    """Of a slice of three dimensions in bf16 torch copies its weights for every utterance."""
    seen, speech = [], features(9, 30, 17)
    head = talkative.llm.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    talkative.transcribe(speech, max_new_tokens=2)
    hook.remove()
    assert {len(shape) for shape in seen} == {2}
    assert seen[0][0] == len(speech)


@pytest.mark.parametrize("ended", range(5))
def test_transcripts_are_those_of_generate(talkative, monkeypatch, ended):
    """An utterance that leaves the batch at its end changes nothing for those that stay."""
    speech = features(9, 30, 17, 41, 22)
    prompts = talkative.prompts(speech)
    longest = max(map(len, prompts))
    rows = [functional.pad(p, (0, 0, longest - len(p), 0)) for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    given = {"inputs_embeds": torch.stack(rows), "attention_mask": torch.tensor(mask)}
    greedy = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 2}
    end = talkative.llm.generate(**given, **greedy, eos_token_id=[])[ended, ended].item()
    expected = talkative.llm.generate(**given, **greedy, eos_token_id=end).tolist()
    monkeypatch.setattr(talkative, "end", end)
    found = talkative.transcribe(speech, max_new_tokens=12)
    whole = [row[: row.index(end) + 1] if end in row else row for row in expected]
    assert 0 < sum(end in row for row in expected) < 5
    decode = talkative.tokenizer.decode
    assert found == [
        (decode(row, skip_special_tokens=True).strip(), end not in row) for row in whole
    ]


def test_the_prompt_is_the_chat_template_around_the_audio_and_the_answer_ends_the_turn(model):
    before, after = chat_prompt(model.tokenizer)
    text = model.tokenizer.decode(before) + "AUDIO" + model.tokenizer.decode(after)
    assert text.endswith("<|im_start|>user\nAUDIO<|im_end|>\n<|im_start|>assistant\n")
    assert model.tokenizer.convert_ids_to_tokens(model.targets("Anna")[-1]) == "<|im_end|>"
