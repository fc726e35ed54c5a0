"""The command line on small real files, and how its errors reach a person."""

import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import save_file

from kappa_lib import __version__
from kappa_lib.errors import InputError
from kappa_lib.run import cli
from kappa_lib.spectra import kappa_table

SHAPES = {"self_attn.q_proj": (12, 12), "self_attn.v_proj": (4, 12), "mlp.up_proj": (24, 12)}


@pytest.fixture
def checkpoint(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"model.layers.{layer}.{name}.weight": torch.randn(shape, generator=generator)
        for layer in range(4)
        for name, shape in SHAPES.items()
    }
    save_file(tensors, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors", tensors


def test_scan_then_select(checkpoint, tmp_path, capsys):
    path, tensors = checkpoint
    assert cli.main(["scan", str(path), "-o", str(tmp_path / "my out"), "--device", "cpu"]) == 0
    table = kappa_table.read(tmp_path / "my out").set_index("tensor")
    values = {name: np.linalg.cond(tensor.double().numpy()) for name, tensor in tensors.items()}
    for name, value in values.items():
        assert table.loc[name, "kappa"] == pytest.approx(value, rel=1e-4)
    shown = capsys.readouterr().out
    assert "12 matrices in" in shown
    ratio = (table["kappa"] / table["kappa_mp"])[table["type"] == "q_proj"].median()
    (row,) = [line.split() for line in shown.splitlines() if line.startswith("q_proj")]
    assert float(row[-1]) == pytest.approx(ratio, rel=1e-3)
    *command, _ = shlex.split(shown.partition("Next: kappa ")[2])
    assert cli.main([*command, str(tmp_path / "arms")]) == 0
    assert (tmp_path / "arms" / "selected.json").is_file()
    capsys.readouterr()

    arguments = ["select", str(tmp_path / "my out"), "--count", "3", "-o", str(tmp_path)]
    assert cli.main([*arguments, "--arm", "selected", "--arm", "inverse"]) == 0
    shown = capsys.readouterr().out
    ordered = sorted(values, key=values.get)
    for arm, expected in {"selected": ordered[:3], "inverse": ordered[-3:]}.items():
        chosen = json.loads((tmp_path / f"{arm}.json").read_text())
        assert chosen["tensors"] == sorted(expected)
        assert f"{arm}: 3 tensors, {chosen['parameters']:,} parameters" in shown
        for end in ("json", "peft.json", "axolotl.yaml"):
            assert (tmp_path / f"{arm}.{end}").is_file()
            assert f"{arm}.{end}" in shown


def test_a_choice_from_a_scan_that_failed_in_part_names_what_it_lacks(checkpoint, tmp_path, capsys):
    path, tensors = checkpoint
    lost = "model.layers.1.mlp.up_proj.weight"
    save_file(tensors | {lost: torch.full((24, 12), torch.nan)}, path)
    assert cli.main(["scan", str(path), "-o", str(tmp_path)]) == cli.WRONG
    assert cli.main(["select", str(tmp_path), "-o", str(tmp_path / "arms")]) == 0
    (line,) = [row for row in capsys.readouterr().out.splitlines() if lost in row]
    assert line.startswith("left out, not measured by the scan: ")


def test_include_and_exclude_reach_the_scan(checkpoint, tmp_path):
    path, _ = checkpoint
    patterns = ["--include", "*proj*", "--exclude", "*.mlp.*", "--exclude", "model.layers.3.*"]
    assert cli.main(["scan", str(path), "-o", str(tmp_path / "out"), *patterns]) == 0
    assert len(kappa_table.read(tmp_path / "out")) == 6


def test_an_error_is_a_message_and_a_status(checkpoint, capsys):
    path, _ = checkpoint
    path.write_bytes(path.read_bytes()[:100])
    assert cli.main(["scan", str(path)]) == cli.WRONG
    shown = capsys.readouterr().err
    assert shown.startswith("kappa: ")
    assert path.name in shown
    assert "What to do" in shown
    assert "Traceback" not in shown


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(InputError, match="there is no κ table"):
        cli.main(["--debug", "select", str(tmp_path)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--profile", "nope"], "there is no profile 'nope'"),
        (["train", "--profile", "smoke", "--set", "steps"], "--set steps"),
        (["train", "--profile", "smoke", "--set", "stepz=1"], "stepz: Extra inputs"),
        (["train", "--profile", "smoke", "--set", "profile=x"], "name it by --profile"),
        (["train", "--profile", "smoke", "--set", "steps=many"], "steps: Input should be"),
        (["report", "--profile", "nope"], "there is no profile 'nope'"),
        (["select", ".", "--share", "0.2", "--count", "3"], "one of --count, --share"),
    ],
)
def test_wrong_settings_are_named(arguments, message, capsys):
    assert cli.main(arguments) == cli.WRONG
    assert message in capsys.readouterr().err


def test_settings_of_a_training_replace_the_profile_s(monkeypatch, tmp_path):
    monkeypatch.setenv("KAPPA_RESULTS", str(tmp_path))
    loaded = []

    def stop(profile):
        loaded.append(profile)
        raise InputError("stopped")

    monkeypatch.setattr("kappa_lib.run.stages.prepare", stop)
    arms = ["--arm", "random", "--arm", "all"]
    given = ["train", "--profile", "smoke", "--set", "steps=40", "--seed", "3", *arms]
    assert cli.main(given) == cli.WRONG
    (profile,) = loaded
    assert (profile.steps, profile.seeds, profile.arms) == (40, [3], ["random", "all"])


def test_without_a_command_the_help_is_shown(capsys):
    assert cli.main([]) == 2
    shown = capsys.readouterr()
    assert "Usage: kappa" in shown.out + shown.err


COMMANDS = sorted(typer.main.get_command(cli.app).commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_in_a_help_is_grammatical(name, capsys):
    assert cli.main([name, "--help"]) == 0
    (example,) = re.findall(r"Example: kappa (.+(?:\n.+)*)", capsys.readouterr().out)
    asked, *arguments = shlex.split(example)
    assert asked == name
    command = typer.main.get_command(cli.app).commands[name]
    assert command.make_context(name, arguments).params


def test_an_output_without_greek_letters_does_without_them():
    inherited = os.environ | {"PYTHONIOENCODING": "iso-8859-1", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "kappa_lib.run.cli", "scan", "--help"]
    done = subprocess.run(command, capture_output=True, env=inherited, check=True)
    assert "Measure ? of every matrix" in done.stdout.decode("iso-8859-1")


def test_the_console_script_is_installed():
    script = f"{sys.prefix}/bin/kappa"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"kappa_lib {__version__}"
