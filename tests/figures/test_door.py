"""Every figure is had from ``kappa_lib.figures``, and shown with its words."""

import subprocess
import sys

import pytest
from PIL import Image

from kappa_lib import figures, profiles
from kappa_lib.errors import InputError


def test_every_name_of_the_door_is_there_and_no_other():
    assert all(callable(getattr(figures, name)) for name in figures.__all__ if name.islower())
    with pytest.raises(AttributeError, match="pie_chart"):
        figures.pie_chart  # noqa: B018


def test_the_door_alone_does_not_import_matplotlib():
    asked = "import sys; from kappa_lib import figures; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", asked], check=True)


def test_a_shown_figure_is_saved_with_its_alternative_text(tmp_path, monkeypatch):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    monkeypatch.setattr(profiles, "_current", profiles.load("smoke"))
    figure, axis = figures.new_figure()
    axis.plot([1, 2], label="one line")
    axis.set(xlabel="layer", ylabel="κ")
    assert figures.show(figure, "lines", "κ over the layers") is figure
    text = "κ over the layers. Horizontal: layer. Vertical: κ. Drawn: one line."
    assert figure._repr_mimebundle_()[1] == {"image/png": {"alt": text}}
    with Image.open(tmp_path / "smoke" / "figures" / "lines.png") as picture:
        assert picture.text["Description"] == text
    assert text in (tmp_path / "smoke" / "figures" / "lines.svg").read_text(encoding="utf-8")


def test_nothing_is_shown_without_a_profile(monkeypatch):
    monkeypatch.setattr(profiles, "_current", None)
    with pytest.raises(InputError, match="no profile was loaded"):
        figures.show(figures.new_figure()[0], "lines")
