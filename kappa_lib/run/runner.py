"""Execute the numbered notebooks of a profile through papermill, then write the report.

Sources are never written to: executed copies go to ``results/<profile>/notebooks``, and what is
executed of one so far to ``NAME.unfinished.ipynb`` there.
"""

import logging
import os
import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from kappa_lib import files, paths, profiles
from kappa_lib.errors import InputError, KappaError
from kappa_lib.profiles import Profile
from kappa_lib.progress import CHANNEL
from kappa_lib.text import clock

SHOWN_LINES = 12  # of a failing cell's traceback
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


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


def sources(folder: Path = paths.NOTEBOOKS) -> list[Path]:
    """The numbered notebooks, in order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


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
    """Execute notebooks in turn, but for those that are unchanged; see :func:`run`."""
    # Kernels work in the notebooks' folder, where a relative path leads elsewhere.
    source = str(profiles.find(source)) if source.endswith((".yaml", ".yml")) else source
    as_filed, own = profiles.load(source).model_dump(), profile.model_dump()
    replaced = {key for key, value in own.items() if as_filed[key] != value}
    decisive, split = keys(sources(chosen[0].parent), profile), profile.folder / "split.json"
    # Whoever lacks a corpus asks for it again.
    again = split.is_file() and files.read_json(split, dict).get("missing")
    for index, path in enumerate(chosen, start=1):
        place, key = f"[{index}/{len(chosen)}] {path.stem}", decisive[path.stem]
        executed = profile.folder / "notebooks" / path.name
        partial = executed.with_suffix(".unfinished.ipynb")
        resumed = executed.is_file() or partial.is_file()
        known = executed.is_file() and files.read_json(executed)["metadata"].get("kappa")
        if known == key and not (again or partial.is_file()):
            print(f"{place}: unchanged, skipped")
            continue
        # Those that its parameters cell declares, and those that are not as in the profile's file.
        declared = set(papermill.inspect_notebook(str(path)))
        values = profile.model_dump(include=declared | replaced) if declared else {}
        values |= {"profile": source} if "profile" in values else {}
        print(place + (": resuming" if resumed else ""), flush=True)
        took = _execute(path, values, partial, key)
        os.replace(partial, executed)
        _record_time(profile.folder, path.stem, took | {"resumed": resumed})
        print(f"{place}: done in {clock(took['seconds'])}", flush=True)


def keys(notebooks: Iterable[Path], profile: Profile) -> dict[str, str]:
    """Name of each notebook → fingerprint of what decides its execution.

    Its cells and those of the notebooks before it, the profile with its recordings and models,
    code, committed results, pins and Python.
    """
    read = [
        [str(path.relative_to(root)), files.sha256(path)]
        for root in (paths.PACKAGE, paths.REFERENCE)
        for path in sorted(root.rglob("*"))
        # Of profiles the values stand below.
        if path.suffix in (".py", ".csv", ".json", ".yaml") and path.parent.name != "profiles"
    ]
    places = [corpus["folder"] for corpus in profile.corpora.values()]
    places += [profile.model, profile.encoder]
    local = [place for place in map(paths.expanded, places) if place.is_dir()]
    everything = {
        "profile": profile.model_dump(),
        "own": files.states(path for folder in local for path in folder.rglob("*")),
        "read": read,
        "pins": files.sha256(paths.LOCK),
        "python": platform.python_version(),
    }
    found, before = {}, files.fingerprint(everything)
    for path in notebooks:
        cells = nbformat.read(path, as_version=4).cells
        before = files.fingerprint([before, [[cell.cell_type, cell.source] for cell in cells]])
        found[path.stem] = before
    return found


def _execute(notebook: Path, values: dict[str, Any], partial: Path, key: str) -> dict[str, Any]:
    """Execute one notebook in its own folder, and leave a copy with outputs and ``key``.

    Returns:
        By papermill's record its ``seconds``, and in ``stages`` those of its sections.
    """
    partial.parent.mkdir(parents=True, exist_ok=True)
    bar = {"desc": notebook.stem, "leave": False} if sys.stderr.isatty() else False
    so_far = f"\n  What was executed so far: {partial}"
    try:
        done = papermill.execute_notebook(
            str(notebook),
            str(partial),
            parameters=values,
            cwd=str(notebook.parent),
            progress_bar=bar,
            kernel_manager_class=_Kernel,
            # The kernel's own remarks on transport and interrupts are no news to the reader.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except PapermillExecutionError as error:
        trace = _ANSI.sub("", "\n".join(error.traceback)).splitlines()[-SHOWN_LINES:]
        shown = "".join(f"\n    {line}" for line in trace or [f"{error.ename}: {error.evalue}"])
        what = f"{notebook.name} failed in cell [{error.exec_count}]:{shown}{so_far}"
        remedy = "after a change, the same command goes on from the last finished stage"
        raise KappaError(what, remedy) from error
    except DeadKernelError as error:
        # The kernel's own count of the last cell may have died with it; papermill's note has not.
        cells = nbformat.read(partial, as_version=4).cells if partial.is_file() else []
        begun = [c for c in cells if c.cell_type == "code" and c.metadata.papermill["start_time"]]
        raise KappaError(
            f"{notebook.name}: the kernel died in cell [{len(begun)}]{so_far}",
            "most often the system ended it for want of memory: close other programs or take a"
            " smaller profile, then call the same command again; it goes on from the last finished"
            " stage",
        ) from error
    done.metadata["kappa"] = key
    nbformat.write(done, partial)
    heading, stages = "", {}
    for cell in done.cells:
        if cell.cell_type == "code" and (took := cell.metadata.papermill.get("duration")):
            stages[heading] = round(stages.get(heading, 0.0) + took, 1)
        elif titles := re.findall(r"^#+ +(.+)$", cell.source, re.MULTILINE):
            heading = titles[-1]
    return {"seconds": round(done.metadata.papermill["duration"], 1), "stages": stages}


def _record_time(folder: Path, name: str, entry: dict) -> None:
    """Keep in ``timings.json``, for the report, what a notebook and the installation took."""
    path = folder / "timings.json"
    content = files.read_json(path) if path.is_file() else {"notebooks": {}}
    content["notebooks"][name] = entry
    installation = os.environ.get("KAPPA_INSTALL_SECONDS")
    content["install_seconds"] = float(installation) if installation else None
    files.write_json(path, content)
