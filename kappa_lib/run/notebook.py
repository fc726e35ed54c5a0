"""One notebook through papermill: its parameters, what decides its execution, its failures."""

import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from kappa_lib import files, paths
from kappa_lib.errors import InputError, KappaError
from kappa_lib.profiles import Profile
from kappa_lib.progress import CHANNEL

SHOWN_LINES = 12  # of a failing cell's traceback
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class NotebookError(KappaError):
    """A notebook that could not be executed to its end."""


class _Kernel(AsyncKernelManager):
    """This interpreter's kernel, whatever else is called ``python3`` in a user's folders."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())

    async def start_kernel(self, **settings: Any) -> None:
        """Start it with our stderr beside its own, which leads into the notebook."""
        console = os.dup(2)
        environment = settings.pop("env", os.environ) | {CHANNEL: str(console)}
        try:
            await super().start_kernel(**settings, env=environment, pass_fds=(console,))
        finally:
            os.close(console)


def parameters(notebook: Path, profile: Profile, replaced: Iterable[str] = ()) -> dict[str, Any]:
    """The settings of ``profile`` that a notebook is given.

    Those are the ones that its parameters cell declares, and those whose value is not the one in
    the profile's file, since the library would read that file for what the cell leaves out.

    Args:
        notebook: the source.
        profile: the settings.
        replaced: keys whose value differs from the profile's file.

    Raises:
        InputError: the cell declares something that is no profile key.
    """
    names = list(papermill.inspect_notebook(str(notebook)))
    if unknown := sorted(set(names) - set(Profile.model_fields)):
        raise InputError(
            f"{notebook.name}: its parameters cell declares {', '.join(unknown)}",
            "declare profile keys only (kappa_lib.profiles.Profile)",
        )
    return profile.model_dump(include={*names, *replaced}) if names else {}


def keys(notebooks: Iterable[Path], profile: Profile) -> dict[str, str]:
    """Name of each notebook → fingerprint of what decides its execution.

    Its cells and those of the notebooks before it, the profile with its recordings and models,
    code, committed results, pins and Python.
    """
    decisive = [
        [str(path.relative_to(root)), files.sha256(path)]
        for root in (paths.PACKAGE, paths.REFERENCE)
        for path in sorted(root.rglob("*"))
        # Of profiles the values stand below.
        if path.suffix in (".py", ".csv", ".json", ".yaml") and path.parent.name != "profiles"
    ]
    places = [corpus["folder"] for corpus in profile.corpora.values()]
    places += [profile.model, profile.encoder]
    own = [place for place in map(paths.expanded, places) if place.is_dir()]
    everything = {
        "profile": profile.model_dump(),
        "own": files.states(path for folder in own for path in folder.rglob("*")),
        "read": decisive,
        "pins": files.sha256(paths.LOCK),
        "python": platform.python_version(),
    }
    found, before = {}, files.fingerprint(everything)
    for path in notebooks:
        cells = nbformat.read(path, as_version=4).cells
        before = files.fingerprint([before, [[cell.cell_type, cell.source] for cell in cells]])
        found[path.stem] = before
    return found


def unfinished(executed: Path) -> Path:
    """What papermill writes to until all of a notebook is executed."""
    return executed.with_suffix(".unfinished.ipynb")


def is_current(executed: Path, key: str) -> bool:
    """Whether a notebook was executed to its end, with this key, and not begun anew since."""
    if not executed.is_file() or unfinished(executed).is_file():
        return False
    return files.read_json(executed)["metadata"].get("kappa") == key


def execute(notebook: Path, values: dict[str, Any], executed: Path, key: str, bar: bool) -> None:
    """Execute one notebook in its own folder, and leave a copy with its outputs.

    Args:
        notebook: the source, which stays as it is.
        values: of the parameters.
        executed: the copy.
        key: for :func:`is_current`.
        bar: whether a bar of cells is drawn on stderr.

    Raises:
        NotebookError: a cell failed or the kernel died; says which cell, the error's last lines
            and where the part that was executed is.
    """
    partial = unfinished(executed)
    executed.parent.mkdir(parents=True, exist_ok=True)
    try:
        done = papermill.execute_notebook(
            str(notebook),
            str(partial),
            parameters=values,
            cwd=str(notebook.parent),
            progress_bar={"desc": notebook.stem, "leave": False} if bar else False,
            kernel_manager_class=_Kernel,
            # The kernel's own remarks on transport and interrupts are no news to the reader.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except PapermillExecutionError as error:
        remedy = "after a change, the same command goes on from the last finished stage"
        raise NotebookError(_cell_message(notebook, error, partial), remedy) from error
    except DeadKernelError as error:
        remedy = (
            "most often the system ended it for want of memory: close other programs or take a"
            " smaller profile, then call the same command again; it goes on from the last finished"
            " stage"
        )
        raise NotebookError(_dead_message(notebook, partial), remedy) from error
    done.metadata["kappa"] = key
    nbformat.write(done, partial)
    os.replace(partial, executed)


def durations(executed: Path) -> dict[str, Any]:
    """By papermill's record: ``seconds`` of a notebook, and in ``stages`` those of its sections."""
    notebook: NotebookNode = nbformat.read(executed, as_version=4)
    heading, stages = "", {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and (took := cell.metadata.papermill.get("duration")):
            stages[heading] = round(stages.get(heading, 0.0) + took, 1)
        elif titles := re.findall(r"^#+ +(.+)$", cell.source, re.MULTILINE):
            heading = titles[-1]
    return {"seconds": round(notebook.metadata.papermill["duration"], 1), "stages": stages}


def _cell_message(notebook: Path, error: PapermillExecutionError, partial: Path) -> str:
    trace = _ANSI.sub("", "\n".join(error.traceback)).splitlines()[-SHOWN_LINES:]
    shown = "\n".join(f"    {text}" for text in trace or [f"{error.ename}: {error.evalue}"])
    return (
        f"{notebook.name} failed in cell [{error.exec_count}]:\n{shown}\n"
        f"  What was executed so far: {partial}"
    )


def _dead_message(notebook: Path, partial: Path) -> str:
    memory = psutil.virtual_memory()
    cells = nbformat.read(partial, as_version=4).cells if partial.is_file() else []
    # The kernel's own count of the last cell may have died with it; papermill's note has not.
    begun = [c for c in cells if c.cell_type == "code" and c.metadata.papermill.get("start_time")]
    where = f"in cell [{len(begun)}]" if begun else "before its first cell"
    return (
        f"{notebook.name}: the kernel died {where} ({memory.available / 1e9:.1f} of "
        f"{memory.total / 1e9:.1f} GB of memory are free now)\n"
        f"  What was executed so far: {partial}"
    )
