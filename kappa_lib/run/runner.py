"""Execute the numbered notebooks of a profile through papermill, then write the report.

Sources are never written to: executed copies go to ``results/<profile>/notebooks``.
"""

import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import papermill
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from kappa_lib import files, paths, profiles
from kappa_lib.errors import InputError, KappaError
from kappa_lib.profiles import Profile
from kappa_lib.progress import CHANNEL
from kappa_lib.text import clock


class _Kernel(AsyncKernelManager):
    """A kernel that has our stderr beside its own, which leads into the notebook."""

    async def start_kernel(self, **settings: Any) -> None:
        console = os.dup(2)
        environment = settings.pop("env", os.environ) | {CHANNEL: str(console)}
        try:
            await super().start_kernel(**settings, env=environment, pass_fds=(console,))
        finally:
            os.close(console)


def sources() -> list[Path]:
    """The numbered notebooks, in order."""
    return sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def run(profile: Profile, source: str, only: list[str]) -> Path:
    """Execute the notebooks, and write the report unless some were picked.

    Args:
        profile: the settings.
        source: name or path by which the notebooks find the profile's file.
        only: beginnings of notebooks' names; all without.

    Returns:
        The report, or the folder of the executed notebooks.

    Raises:
        InputError: nothing to execute, or not with this profile.
        KappaError: a notebook could not be executed to its end.
    """
    if profile.task != "speech" or not {"selected", "inverse"} <= set(profile.arms):
        what = "the notebooks compare the arms `selected` and `inverse` on speech"
        remedy = f"call `kappa train --profile {source}`, and see notebook 6"
        raise InputError(f"profile {profile.profile}: {what}", remedy)
    if not paths.in_clone():
        raise InputError(
            f"{paths.NOTEBOOKS}: no notebooks here; an installed package does not bring them",
            "call this in a clone of the repository, in an environment made by `bash reproduce.sh`",
        )
    chosen = [path for path in sources() if not only or path.name.startswith(tuple(only))]
    if not chosen:
        raise InputError(f"no notebook starts with {' or '.join(only)}", f"see {paths.NOTEBOOKS}")
    # The kernels inherit it: a warning of the debugger would be the first line of every log.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    logging.getLogger("papermill").setLevel(logging.ERROR)
    print(f"profile {profile.profile}: results in {profile.folder}")
    with files.alone(profile.folder, "notebooks"):
        execute(chosen, profile, source)
        if only:  # a report on a part of the notebooks would have to do the others' work
            return profile.folder / "notebooks"
        from kappa_lib.evidence import report  # heavy

        return report.write(profile)


def execute(chosen: list[Path], profile: Profile, source: str) -> None:
    """Execute notebooks in turn; see :func:`run`."""
    # Kernels work in the notebooks' folder, where a relative path leads elsewhere.
    source = str(profiles.find(source)) if source.endswith((".yaml", ".yml")) else source
    as_filed, own = profiles.load(source).model_dump(), profile.model_dump()
    replaced = {key for key, value in own.items() if as_filed[key] != value}
    for index, path in enumerate(chosen, start=1):
        place = f"[{index}/{len(chosen)}] {path.stem}"
        executed = profile.folder / "notebooks" / path.name
        resumed = executed.is_file()
        # Those that its parameters cell declares, and those that are not as in the profile's file.
        declared = set(papermill.inspect_notebook(str(path)))
        values = profile.model_dump(include=declared | replaced) if declared else {}
        values |= {"profile": source} if "profile" in values else {}
        print(place + (": again, from what is kept" if resumed else ""), flush=True)
        done = _execute(path, values, executed)
        _record_time(profile.folder, path.stem, done, resumed)
        print(f"{place}: done in {clock(done.metadata.papermill['duration'])}", flush=True)


def _execute(notebook: Path, values: dict[str, Any], executed: Path) -> NotebookNode:
    """Execute one notebook in its own folder, and leave a copy with what was executed of it."""
    executed.parent.mkdir(parents=True, exist_ok=True)
    bar = {"desc": notebook.stem, "leave": False} if sys.stderr.isatty() else False
    so_far = f"\n  What was executed so far: {executed}"
    try:
        return papermill.execute_notebook(
            str(notebook),
            str(executed),
            parameters=values,
            cwd=str(notebook.parent),
            progress_bar=bar,
            kernel_manager_class=_Kernel,
            # The kernel's own remarks on transport and interrupts are no news to the reader.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except PapermillExecutionError as error:
        uncoloured = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
        last = uncoloured.splitlines()[-12:] or [f"{error.ename}: {error.evalue}"]
        shown = "".join(f"\n    {line}" for line in last)
        raise KappaError(
            f"{notebook.name} failed in cell [{error.exec_count}]:{shown}{so_far}",
            "after a change, the same command goes on from the last finished stage",
        ) from error
    except DeadKernelError as error:
        raise KappaError(
            f"{notebook.name}: the kernel died{so_far}",
            "most often the system ended it for want of memory: close other programs or take a"
            " smaller profile, then call the same command again; it goes on from the last finished"
            " stage",
        ) from error


def _record_time(folder: Path, name: str, done: NotebookNode, resumed: bool) -> None:
    """Keep in ``timings.json``, for the report, what a notebook with its sections took by
    papermill's record, and what the installation did."""
    heading, stages = "", {}
    for cell in done.cells:
        if cell.cell_type == "code" and (took := cell.metadata.papermill.get("duration")):
            stages[heading] = round(stages.get(heading, 0.0) + took, 1)
        elif titles := re.findall(r"^#+ +(.+)$", cell.source, re.MULTILINE):
            heading = titles[-1]
    path = folder / "timings.json"
    content = files.read_json(path) if path.is_file() else {"notebooks": {}}
    seconds = round(done.metadata.papermill["duration"], 1)
    content["notebooks"][name] = {"seconds": seconds, "stages": stages, "resumed": resumed}
    installation = os.environ.get("KAPPA_INSTALL_SECONDS")
    content["install_seconds"] = float(installation) if installation else None
    files.write_json(path, content)
