#!/usr/bin/env bash
# Test the core with the oldest releases that pyproject.toml admits, and record which they were in
# results/reference/oldest.json. Of torch the pinned release: others bring gigabytes of CUDA.
#
#   bash tools/oldest.sh [VENV]   VENV: made if missing, by default a temporary one
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv="${1:-$(mktemp -d)}"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
# Tests of weights, spectra and the command that need none of the extras.
tests="tests/weights/test_fetch.py tests/weights/test_sources.py tests/weights/test_packing.py
    tests/spectra/test_gram.py tests/spectra/test_selection.py tests/spectra/test_solvers.py
    tests/spectra/test_spectrum.py tests/spectra/test_spectrum_properties.py tests/test_files.py"
PYTHONPATH="$PWD" OMP_NUM_THREADS=1 "$venv/bin/python" - $tests tests/run/test_cli.py <<'PYTHON'
import json, pathlib, re, subprocess, sys, tomllib

lines = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]
oldest = dict(re.match(r"([\w-]+)>=([\w.]+)", line).groups() for line in lines)
torch = re.search("^torch==(.+)", pathlib.Path("requirements.lock").read_text(), re.M)[1]
run = [f"{name}=={version}" for name, version in (oldest | {"torch": torch}).items()]
pip = [sys.executable, "-m", "pip", "install", "-q", *run, "pytest", "hypothesis"]
subprocess.run(pip, check=True)
pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *sys.argv[1:]]
pytest += ["-k", "not train and not report and not settings and not installed"]
told = subprocess.run(pytest, stdout=subprocess.PIPE, text=True)
print(told.stdout)
told.check_returncode()
*_, result = told.stdout.splitlines()
record = {"oldest": oldest, "run": run, "tests": sys.argv[1:], "result": result}
pathlib.Path("results/reference/oldest.json").write_text(json.dumps(record, indent=2) + "\n")
PYTHON
