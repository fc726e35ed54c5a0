import json
import shutil

import pytest

from kappa_lib import paths
from kappa_lib.errors import InputError
from kappa_lib.files import read_json, write_json
from kappa_lib.training.checkpoints import read_metrics
from tools import agree

THEIRS = paths.REFERENCE / "type"
RUN = "mlp_matched_size-seed1"


@pytest.fixture
def mine(tmp_path):
    shutil.copytree(THEIRS / "runs" / RUN, tmp_path / "runs" / RUN)
    return tmp_path


def change(mine, edit):
    rows = read_metrics(mine / "runs" / RUN)
    edit(rows)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (mine / "runs" / RUN / "metrics.jsonl").write_text(text)
    return agree.compare(mine, THEIRS)


def test_seconds_alone_do_not_part_two_runs(mine):
    found = change(mine, lambda rows: rows[-1].update(seconds=1.0))
    assert found == [[RUN, "bit for bit", "0", "0", "0", "alike by name"]]


def test_the_largest_difference_of_any_evaluation_is_told(mine):
    path = mine / "runs" / RUN / "provenance.json"
    write_json(path, read_json(path) | {"threads": 7})

    def edit(rows):
        rows[0]["text_loss"] += 0.25
        rows[1]["wer"]["en_open"] -= 0.125
        rows[2]["wer"]["en_human"] += 0.0625

    assert change(mine, edit) == [[RUN, "no", "12.50", "0.2500", "0.0000", "other threads"]]


def test_instructions_count_where_both_runs_noted_them(mine):
    path = mine / "runs" / RUN / "provenance.json"
    write_json(path, read_json(path) | {"instructions": ["avx", "avx2"]})

    def edit(rows):
        rows[0]["kl"] += 0.5

    assert change(mine, edit)[0][-1] == "alike by name"
    theirs = mine / "theirs"
    shutil.copytree(THEIRS / "runs" / RUN, theirs / "runs" / RUN)
    path = theirs / "runs" / RUN / "provenance.json"
    write_json(path, read_json(path) | {"instructions": ["avx"]})
    assert agree.compare(mine, theirs)[0][-1] == "other instructions"


def test_other_settings_are_not_compared(mine):
    path = mine / "runs" / RUN / "config.json"
    write_json(path, read_json(path) | {"lr": 1.0})
    assert agree.compare(mine, THEIRS)[0][1] == "other settings: lr"


def test_nothing_in_common_is_refused(tmp_path):
    with pytest.raises(InputError, match="no finished run"):
        agree.compare(tmp_path, THEIRS)
