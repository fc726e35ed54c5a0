from tools import sentences


def test_only_whole_sentences_of_words_are_used_and_each_once():
    paragraphs = [
        "“I am sure of it.” Mr. Weston smiled at her very kindly. I'm sure of it.",
        "VOLUME ONE. He came at 10 o'clock to the house. She did not—could not answer him.",
        "Too short! There she stood, alone and silent. I AM SURE OF IT.",
    ]
    found = list(sentences.usable(paragraphs, "en"))
    assert found == ["I am sure of it.", "There she stood, alone and silent."]


def test_quotations_are_chosen_by_their_author(tmp_path):
    path = tmp_path / "zitate"
    path.write_text(
        "Ein Wort\nist ein Wort.\n\t\t-- Jean Paul (Titan)\n%\n"
        "Nein.\n\t\t-- Jean Paul Belmondo\n%\n"
        "Ohne Namen.\n%\nJa.\n\t\t-- Novalis\n",
        encoding="utf-8",
    )
    assert list(sentences.quotations(path)) == ["Ein Wort ist ein Wort.", "Ja."]
