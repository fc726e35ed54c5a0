"""How numbers are written for a person."""

import pytest

from kappa_lib.text import clock, counted, markdown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (7620, "2 h 07 min"),
        (48 * 3600, "48 h 00 min"),
    ],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_one_thing_and_several():
    told = [counted(n, "seed") for n in (0, 1, 2)]
    assert told == ["0 seeds", "1 seed", "2 seeds"]
    assert counted(1, "matrix", "matrices") == "1 matrix"
    assert counted(1200, "matrix", "matrices") == "1,200 matrices"


def test_a_table_in_markdown():
    assert markdown(["arm", "WER, %"], [["all", 1.5], ["mlp", "–"]]).splitlines() == [
        "| arm | WER, % |",
        "|---|---|",
        "| all | 1.5 |",
        "| mlp | – |",
    ]
    assert markdown(["log|c|"], []).startswith("| log\\|c\\| |")
