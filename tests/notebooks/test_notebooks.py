"""What has to be true of the committed notebooks before anything is executed.

nbval compares outputs only where a cell was executed and has some; these tests see to it that
there is something to compare, and that notebooks, profiles and parameters name the same keys.
"""

import ast
import re

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from kappa_lib import paths, profiles
from kappa_lib.run.runner import sources

NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sources()}
STRICT = ("01_", "02_", "05_", "06_", "09_")  # as reproduce.sh test has them
LONGEST = 15  # lines of a code cell
ABSOLUTE = re.compile(r"(?<![\w.~])/(?:home|root|Users|tmp|var|opt|usr|mnt|work|private)/|[A-Z]:\\")
COMPARED = re.compile(r"^\s*#.*NBVAL_CHECK_OUTPUT", re.MULTILINE)

every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def code(name):
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]


def parse(cell):
    return ast.parse(TransformerManager().transform_cell(cell.source))


def tags(cell):
    return cell.metadata.get("tags", [])


def is_compared(cell):
    return bool(COMPARED.search(cell.source)) or "nbval-check-output" in tags(cell)


def texts(cell):
    """Every text that a cell's outputs hold; pictures are left out."""
    for output in cell.outputs:
        bundle = output.get("data", {"text": output.get("text", "")})
        yield from ("".join(text) for kind, text in bundle.items() if not kind.startswith("image/"))


def parameters(name):
    """Name → value of the parameters cell; an expression that is no literal is an error."""
    found = [cell for cell in code(name) if "parameters" in tags(cell)]
    assert len(found) <= 1, "one cell is tagged parameters"
    values = {}
    for statement in parse(found[0]).body if found else []:
        assert isinstance(statement, ast.Assign), f"{ast.unparse(statement)}: not key = value"
        (target,) = statement.targets
        assert isinstance(target, ast.Name), f"{ast.unparse(statement)}: not key = value"
        try:
            values[target.id] = ast.literal_eval(statement.value)
        except ValueError:
            pytest.fail(f"{ast.unparse(statement)}: derived, so papermill could not replace it")
    return values


@every_notebook
def test_it_is_valid_and_runs_on_the_kernel_python3(name):
    notebook = NOTEBOOKS[name]
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.kernelspec.display_name == "Python 3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@every_notebook
def test_it_was_executed_from_top_to_bottom_without_an_error_or_a_warning(name):
    counts = [cell.execution_count for cell in code(name)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in code(name) for output in cell.outputs]
    # nbval compares stderr, and warnings and progress bars differ between machines.
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


@every_notebook
def test_every_compared_cell_has_something_to_compare(name):
    for cell in code(name):
        if is_compared(cell):
            assert cell.execution_count, f"cell {cell.id}"
            assert cell.outputs, f"cell {cell.id}"
    compared = [cell for cell in code(name) if is_compared(cell)]
    if name.startswith(STRICT):
        compared = [cell for cell in code(name) if cell.outputs and not is_ignored(cell)]
    assert compared, "no output of this notebook is compared with anything"


def is_ignored(cell):
    return "NBVAL_IGNORE_OUTPUT" in cell.source or "nbval-ignore-output" in tags(cell)


@every_notebook
def test_a_cell_that_prints_has_its_output_in_place(name):
    for cell in code(name):
        last = parse(cell).body[-1:]
        calls = [node for node in last if isinstance(node, ast.Expr)]
        printed = [ast.unparse(call) for call in calls if ast.unparse(call).startswith("print(")]
        assert cell.outputs or not printed, f"cell {cell.id} prints and shows nothing"


@every_notebook
def test_it_shows_a_figure(name):
    pictures = [o for cell in code(name) for o in cell.outputs if "image/png" in o.get("data", {})]
    assert pictures


@every_notebook
def test_it_defines_nothing(name):
    for cell in code(name):
        for node in ast.walk(parse(cell)):
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            assert not isinstance(node, kinds), f"cell {cell.id} defines {node.name}"


@every_notebook
def test_its_cells_are_short(name):
    for cell in code(name):
        lines = cell.source.strip().count("\n") + 1
        assert lines <= LONGEST or "parameters" in tags(cell), f"cell {cell.id} has {lines} lines"


@every_notebook
def test_no_absolute_path_is_in_it(name):
    for cell in NOTEBOOKS[name].cells:
        for text in [cell.source, *(texts(cell) if cell.cell_type == "code" else [])]:
            found = ABSOLUTE.search(text)
            assert not found, f"cell {cell.id}: …{text[max(0, found.start() - 20) :][:60]}…"


@every_notebook
def test_its_parameters_are_profile_keys_with_the_values_of_smoke_or_name_a_committed_run(name):
    smoke = profiles.load("smoke").model_dump()
    given = parameters(name)
    if given["profile"].startswith("reference/"):
        assert (paths.ROOT / "results" / given.pop("profile") / "kappa.csv").is_file()
    for key, value in given.items():
        assert key in smoke, f"{key} is no profile key"
        assert value == smoke[key], key


@every_notebook
def test_every_parameter_reaches_the_profile(name):
    cells = [cell for cell in code(name) if "parameters" not in tags(cell)]
    used = {n.id for cell in cells for n in ast.walk(parse(cell)) if isinstance(n, ast.Name)}
    taken = {"globals"} & used or parameters(name).keys() <= used
    assert taken, sorted(parameters(name).keys() - used)


def test_every_profile_key_is_in_a_parameters_cell():
    declared = {key for name in NOTEBOOKS for key in parameters(name)}
    assert set(profiles.Profile.model_fields) - declared == set()


def test_the_profiles_that_the_script_offers_exist():
    script = (paths.ROOT / "reproduce.sh").read_text(encoding="utf-8")
    offered = re.search(r"--profile ([a-z0-9|-]+)\]", script).group(1).split("|")
    # The notebooks are about speech, and compare these two.
    able = [
        name
        for name in profiles.names()
        if profiles.load(name).task == "speech"
        and {"selected", "inverse"} <= set(profiles.load(name).arms)
    ]
    assert sorted(offered) == able
