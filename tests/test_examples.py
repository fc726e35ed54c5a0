"""The examples run, on a model of two layers, and train what they say."""

import importlib.util
import re

import pytest
import tiny

from kappa_lib import paths


@pytest.fixture
def peft_kappa():
    spec = importlib.util.spec_from_file_location("example", paths.ROOT / "examples/peft_kappa.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_peft_by_kappa_and_its_control(peft_kappa, tmp_path, capsys):
    folder = tiny.save_model(tmp_path / "model")
    options = ["--model", str(folder), "--steps", "6", "--rank", "4", "--lr", "0.1"]
    peft_kappa.main(options)
    rows = re.findall(
        r"^(.{20}) +([\d,]+) +(\S+) → (\S+) +(\S+) → (\S+)", capsys.readouterr().out, re.M
    )
    (_, *first), (_, *second) = rows
    assert first[0] == second[0] != "0"  # as many parameters
    assert first[1] == second[1]  # LoRA begins as nothing, so both at the base model
    assert first[3] == second[3]
    assert float(first[2]) < float(first[1])
    assert float(second[2]) < float(second[1])
