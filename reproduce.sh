#!/usr/bin/env bash
# From a bare clone to REPORT.md, figures and executed notebooks.
#
#   bash reproduce.sh [--profile smoke|laptop|study|paper|paper-1b|paper-3b] [run]
#       the whole flow (default profile: laptop); another profile by its path, mine.yaml
#       --set KEY=VALUE   another value for a profile key, e.g. --set seeds=[0,1]; repeatable
#       --only NN         this notebook only; repeatable
#   bash reproduce.sh test         lint, unit tests, and every notebook under nbval
#   bash reproduce.sh lab [...]    JupyterLab on the notebooks; more arguments go to JupyterLab
#   bash reproduce.sh bench [...]  κ timed against the author's and PEFT's way, 15 minutes
#   bash reproduce.sh site         chapters, guides, claims, reports and API as a site, in site/
#   bash reproduce.sh --help
#
# What it needs: Linux or macOS (Apple silicon), Python 3.11 or newer with venv, 6 GB of disk and
#   8 GB of memory; no GPU and no root. The network only for what is not there yet: the pinned
#   packages, and 250 MB of weights and speech.
# What it does:  makes .venv if missing, installs requirements.lock into it when the lock has
#   changed, then executes notebooks/NN_*.ipynb in order through papermill. Results go to
#   results/<profile>/, never over the sources. Nothing that is unchanged is done again, so
#   interrupt it whenever you like and call it again.
# How long:      `run` 25 minutes and `test` 30 minutes at most on 2 cores; the measured times of
#   a run, installation included, are in its REPORT.md.
#
# Settings from outside: PYTHON (interpreter for .venv), KAPPA_HOME (cache of weights and speech),
#   KAPPA_RESULTS (root of the results), pip's own PIP_* variables. On Linux pip's default torch
#   carries CUDA libraries (3 GB to download); show pip a CPU build, for instance with
#   PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL, and it satisfies the pin too.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
VENV="$ROOT/.venv"
MARK="$VENV/kappa-installed"
PIP=26.3
UNUSED='site-packages/(.*/(tests?|testing|_inductor|_vendored|lexers|physics)/|(pip|setuptools)/'
UNUSED+='|transformers/models/(?!auto|llama|whisper))'

fail() {
    printf 'reproduce.sh: %s\n' "$1" >&2
    exit "${2:-1}"
}

usage() {
    sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//;p;}' "$ROOT/reproduce.sh"
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11 or newer"
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if is_new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found (python3 is $(python3 --version 2>&1 || true));
  install one, or name it: PYTHON=/path/to/python3.11 bash reproduce.sh"
}

make_venv() {
    # A half-made environment (interrupted, or its base Python gone) is made anew.
    if "$VENV/bin/python" -c 'import pip' >/dev/null 2>&1; then
        return
    fi
    local python
    python="$(find_python)"
    echo "== making .venv with $("$python" --version)"
    "$python" -m venv --clear "$VENV" ||
        fail "$python cannot make a virtual environment; on Debian and Ubuntu install python3-venv"
}

# What decides whether the environment is the right one: the pins, the package's declaration,
# where the clone is, and the interpreter.
environment_key() {
    "$VENV/bin/python" - "$ROOT" <<'PYTHON'
import hashlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
key = hashlib.sha256(f"{root}\n{sys.version}\n".encode())
for name in ("requirements.lock", "pyproject.toml"):
    key.update((root / name).read_bytes())
print(key.hexdigest())
PYTHON
}

pip_install() {
    "$VENV/bin/python" -m pip --disable-pip-version-check install "$@"
}

install() {
    local key started seconds
    started=$SECONDS
    # What these point to belongs to another environment; pip would take it for installed.
    unset PYTHONPATH PYTHONHOME JUPYTER_PATH
    make_venv
    key="$(environment_key)"
    if [ "$(sed -n 1p "$MARK" 2>/dev/null || true)" != "$key" ]; then
        echo "== installing the pinned packages into .venv (needed once; minutes)"
        rm -f "$MARK"
        # The pip that a Python brings may be years old, and takes twice the time then.
        { pip_install --quiet "pip==$PIP" && pip_install --no-compile -r "$ROOT/requirements.lock"; } ||
            fail "the pinned packages could not be installed; see pip's message above and call again"
        # Pip compiles on one core, and what is never imported, too: tests, hundreds of models.
        # What does not compile here is no module: templates.
        "$VENV/bin/python" -m compileall -qq -j 0 -x "$UNUSED" "$VENV/lib" || true
        # Twice quiet: a warning about every editable installation says nothing here.
        pip_install --quiet --quiet --no-deps --no-build-isolation -e "$ROOT"
        seconds=$((SECONDS - started))
        printf '%s\n%s\n' "$key" "$seconds" >"$MARK.new"
        mv "$MARK.new" "$MARK"
        echo "== installed in $seconds s"
    fi
    KAPPA_INSTALL_SECONDS="$(sed -n 2p "$MARK")"
    export KAPPA_INSTALL_SECONDS
    export PATH="$VENV/bin:$PATH" VIRTUAL_ENV="$VENV" JUPYTER_PREFER_ENV_PATH=1
}

run_tests() {
    local failed="" notebook scratch beside
    local strict=() lax=() aside=()
    for notebook in notebooks/[0-9][0-9]_*.ipynb; do
        case "$notebook" in
            notebooks/0[12569]_*) strict+=("$notebook") ;;
            notebooks/0[38]_*) lax+=("$notebook") ;;
            *) aside+=("$notebook") ;;
        esac
    done
    # Two processes at a time, so one thread each.
    export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    echo "== ruff"
    python -m ruff check . || failed="$failed ruff-check"
    python -m ruff format --check . || failed="$failed ruff-format"
    echo "== unit tests, two processes"
    python -m pytest -n 2 --dist loadfile --no-loadscope-reorder || failed="$failed unit-tests"
    # One pytest call compares in one way. Half of the notebooks go aside, with results of their
    # own, for two would write into those of the profile smoke at once.
    scratch="$(mktemp -d)"
    KAPPA_RESULTS="$scratch" python -m pytest --nbval-lax "${aside[@]}" >"$scratch/log" 2>&1 &
    beside=$!
    trap "kill $beside 2>/dev/null || true; rm -rf '$scratch'" EXIT
    echo "== theory and committed results, every output compared"
    python -m pytest --nbval "${strict[@]}" || failed="$failed strict-notebooks"
    echo "== the other notebooks, marked outputs compared"
    python -m pytest --nbval-lax "${lax[@]}" || failed="$failed lax-notebooks"
    wait "$beside" || failed="$failed notebooks-aside"
    cat "$scratch/log"
    rm -rf "$scratch"
    trap - EXIT
    [ -z "$failed" ] || fail "failed:$failed"
    echo "== all of it passed in $SECONDS s"
}

profile=laptop
command=""
options=()
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help | help) usage; exit 0 ;;
        --profile) [ $# -ge 2 ] || fail "--profile needs a name" 2; profile="$2"; shift 2 ;;
        --profile=*) profile="${1#--profile=}"; shift ;;
        --set | --only) [ $# -ge 2 ] || fail "$1 needs a value" 2; options+=("$1" "$2"); shift 2 ;;
        run | test | site) [ -z "$command" ] || fail "one command at a time, see --help" 2; command="$1"; shift ;;
        lab | bench)
            [ -z "$command" ] || fail "one command at a time, see --help" 2
            command="$1"; shift; break ;;
        *) fail "unknown argument '$1', see bash reproduce.sh --help" 2 ;;
    esac
done
case "$profile" in
    *.yaml | *.yml)
        [ -f "$profile" ] || fail "there is no profile file '$profile'" 2
        profile="$(cd "$(dirname "$profile")" && pwd)/$(basename "$profile")" ;;
    *)
        [ -f "$ROOT/kappa_lib/data/profiles/$profile.yaml" ] ||
            fail "there is no profile '$profile', see kappa_lib/data/profiles/" 2 ;;
esac

[[ "${command:-run}" == run || "$profile ${#options[@]}" == "laptop 0" ]] ||
    fail "$command takes no --profile, --set or --only" 2

cd "$ROOT"
install
case "${command:-run}" in
    run) exec python -m kappa_lib.run.cli run --profile "$profile" ${options[@]+"${options[@]}"} ;;
    test) run_tests ;;
    site)
        python -m sphinx -q -b html -c docs . site
        echo "== open site/index.html" ;;
    bench) exec python -m benchmarks.bench ${1+"$@"} ;;
    lab) exec python -m jupyterlab --notebook-dir "$ROOT/notebooks" ${1+"$@"} ;;
esac
