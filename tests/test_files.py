import os
import re
import signal
import subprocess
import sys

import pytest

from kappa_lib.errors import SpaceError
from kappa_lib.files import fingerprint, making, replacing, require_space, stage, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


KILLED = """
import os, signal, sys
from pathlib import Path
from kappa_lib.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    # safetensors writes to a name of its own choice beside it first
    temporary.with_name(".tmpAbC").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(path):
    before = set(os.listdir(path.parent))
    process = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert process.returncode == -signal.SIGKILL
    left = set(os.listdir(path.parent)) - before
    assert left
    return left


def test_what_a_kill_left_of_a_write_goes_with_the_next_of_the_same_file(tmp_path):
    others = killed_while_writing(tmp_path / "b.a.txt")
    killed_while_writing(tmp_path / "a.txt")
    write_text(tmp_path / "a.txt", "whole")
    assert set(os.listdir(tmp_path)) == {"a.txt", *others}


def test_what_a_living_process_is_writing_stays(tmp_path):
    (left,) = killed_while_writing(tmp_path / "a.txt")
    living = tmp_path / re.sub(r"-\d+\.", f"-{os.getppid()}.", left)
    (tmp_path / left).rename(living)
    write_text(tmp_path / "a.txt", "whole")
    assert living.exists()


def test_no_space_is_said_before_writing(tmp_path):
    with pytest.raises(SpaceError, match="free"):
        require_space(tmp_path / "not" / "yet", 10**18)
    assert os.listdir(tmp_path) == []


def test_fingerprint_ignores_the_order_of_keys_only():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])


def test_a_name_that_is_not_utf_8_has_a_fingerprint_and_others_keep_theirs():
    names = [os.fsdecode(b"\xff.wav"), os.fsdecode(b"\xfe.wav"), "ÿ.wav"]
    assert len({fingerprint([name]) for name in names}) == 3
    kept = "3738996c54fa9d2bd21934a25a7105fa22a746d85b31af29229d165c81831c62"
    assert fingerprint(["ÿ.wav", 1, None]) == kept


def test_a_stage_is_skipped_for_the_same_inputs_and_intact_outputs_only(tmp_path):
    out, calls = tmp_path / "out.txt", []

    def make():
        calls.append(0)
        write_text(out, "result")

    def made(**inputs):
        before = len(calls)
        stage("s", tmp_path, inputs, [out], make)
        return len(calls) > before

    assert made(x=1)
    assert not made(x=1)
    assert made(x=2)
    write_text(out, "edited")
    assert made(x=2)
    out.unlink()
    assert made(x=2)
    assert not made(x=2)


def test_of_two_processes_that_make_a_folder_the_first_to_finish_wins(tmp_path):
    """Both may dequantise a model, for instance."""
    folder, code = tmp_path / "made", "import sys; from pathlib import Path\n"
    code += "from kappa_lib.files import making\n"
    code += "with making(Path(sys.argv[1])) as own: (own / 'first').touch()"
    with making(folder) as own:
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
        (own / "second").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert [path.name for path in folder.iterdir()] == ["first"]


def test_another_error_than_a_faster_process_is_not_hidden(tmp_path):
    (tmp_path / "made").mkdir()
    with pytest.raises(FileNotFoundError), making(tmp_path / "made"):
        (tmp_path / "absent").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
