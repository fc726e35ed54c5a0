"""κ of a file, and what runs have left, need none of the packages that training and speech need."""

import subprocess
import sys

import torch
from safetensors.torch import save_file

HEAVY = (
    "av", "ctranslate2", "datasets", "gguf", "jiwer", "papermill", "peft",
    "scipy.stats", "soundfile", "transformers",
)  # fmt: skip
CODE = """
import sys
import kappa_lib.spectra.scan, kappa_lib.weights.models
table = kappa_lib.spectra.scan.scan(sys.argv[1], device="cpu")
assert len(table) == 1
print(*sorted(set(sys.argv[2:]) & set(sys.modules)))
"""


def test_a_scan_of_a_file_imports_no_heavy_package(tmp_path):
    save_file({"layers.0.mlp.up_proj.weight": torch.eye(3)}, tmp_path / "a.safetensors")
    command = [sys.executable, "-c", CODE, str(tmp_path / "a.safetensors"), *HEAVY]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_results_are_read_and_judged_without_what_trains():
    """Else a notebook that only shows results would take twice as long to begin."""
    code = "import sys, kappa_lib.evidence.report, kappa_lib.evidence.claims\n"
    code += "print(*sorted({'datasets', 'peft', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
