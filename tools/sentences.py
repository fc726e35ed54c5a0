"""Cut the open sentences that are spoken for the corpora ``en_open`` and ``de_open``.

They are kept in the repository (``kappa_lib/data/texts``), so nobody needs this to train.
English: Jane Austen's novels without the one on which forgetting is measured. German: sentences
of authors who wrote in German and died before 1926, from the quotations of ``fortunes-de``; no
package that could be found carries German novels.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from kappa_lib.speech.transcripts import normalise
from kappa_lib.weights.assets import Pin, check
from kappa_lib.weights.mirrors import DebianArchive
from tools import texts

FORTUNES = DebianArchive("fortunes-de", "usr/share/games/fortunes/de/")
QUOTATIONS = Pin(
    "zitate",
    1_954_538,
    "c6c859db2686cec157be4202747a36de4bc7405042918922f507fb6a9b3012a3",
)
AUTHORS = frozenset(
    line.strip()
    for line in """
    Adalbert Stifter
    Adolph Freiherr von Knigge
    Arthur Schopenhauer
    Christian Friedrich Hebbel
    Christian Morgenstern
    Conrad Ferdinand Meyer
    Eduard Mörike
    Ernst von Feuchtersleben
    Frank Wedekind
    Franz Grillparzer
    Franz Kafka
    Friedrich Engels
    Friedrich II. der Große
    Friedrich Johann Christoph Schiller
    Friedrich Rückert
    Friedrich Schiller
    Friedrich Wilhelm Nietzsche
    Friedrich von Schlegel
    Georg Christoph Lichtenberg
    Georg Wilhelm Friedrich Hegel
    Gotthold Ephraim Lessing
    Gottfried Keller
    Heinrich Heine
    Heinrich von Kleist
    Immanuel Kant
    Jean Paul
    Johann Christian Friedrich Hölderlin
    Johann Georg August Galletti
    Johann Gottfried Herder
    Johann Gottlieb Fichte
    Johann Heinrich Pestalozzi
    Johann Nepomuk Nestroy
    Johann Wolfgang von Goethe
    Karl Julius Weber
    Karl Marx
    Ludwig Börne
    Ludwig Feuerbach
    Marie von Ebner-Eschenbach
    Martin Luther
    Matthias Claudius
    Novalis
    Otto von Bismarck
    Paul Heyse
    Peter Rosegger
    Theodor Fontane
    Theodor Storm
    Wilhelm Busch
    Wilhelm von Humboldt
""".strip().splitlines()
)
WORDS = {"en": range(4, 12), "de": range(3, 15)}  # German has fewer to choose from
LONGEST = 90  # characters
SENTENCE = re.compile(r"[A-ZÄÖÜ][a-zäöüßA-ZÄÖÜ',;:\- ]+[.!?]")
# Left out with their sentences; their dots would end a sentence where none ends.
TITLES = re.compile(r"\b(Mr|Mrs|Dr|St|Esq|Capt|Col|usw|bzw)\.?(?!\w)|\b[A-ZÄÖÜ]{2,}\b")
END = re.compile(r"(?<=[.!?])\s+")


def main() -> None:
    """Write both files and their manifest."""
    with tempfile.TemporaryDirectory() as folder:
        found = cut(Path(folder))
    texts.write({name: "\n".join(sentences) + "\n" for name, sentences in found.items()})


def cut(folder: Path) -> dict[str, list[str]]:
    """Corpus → sentences, each once, from the packages fetched into a folder.

    Raises:
        AssetError: a package cannot be had, or a file in it is not the pinned one.
    """
    for package, pin in ((texts.AUSTEN, texts.NOVELS), (FORTUNES, QUOTATIONS)):
        package.fetch(folder, [pin.name])
        check(folder, [pin])
    books = texts.novels(folder / texts.NOVELS.name)
    english = (part for book in books if book[0] != texts.NOVEL for part in book)
    return {
        "en_open": list(usable(english, "en")),
        "de_open": list(usable(quotations(folder / QUOTATIONS.name), "de")),
    }


def quotations(path: Path) -> Iterator[str]:
    """What the authors said, a quotation on one line."""
    for entry in path.read_text(encoding="utf-8").split("\n%\n"):
        said, _, source = entry.partition("\n\t\t-- ")
        if re.sub(r"\s*[(,].*", "", source, flags=re.DOTALL).strip() in AUTHORS:
            yield " ".join(said.split())


def usable(paragraphs: Iterable[str], language: str) -> Iterator[str]:
    """Whole sentences of words alone, of a length that fits; the same words only once."""
    seen = set()
    for paragraph in paragraphs:
        plain = re.sub('[“”„"»«]', "", paragraph).replace("’", "'")
        for sentence in END.split(TITLES.sub("—", plain)):
            fits = len(sentence.split()) in WORDS[language] and len(sentence) <= LONGEST
            if fits and SENTENCE.fullmatch(sentence):
                key = normalise(sentence, language)
                if key not in seen:
                    seen.add(key)
                    yield sentence


if __name__ == "__main__":
    main()
