"""Execute the numbered notebooks of a profile through papermill, then write the report.

Sources are never written to: executed copies go to ``results/<profile>/notebooks``.
"""

import logging
import os
import sys
from pathlib import Path

from kappa_lib import files, paths, profiles
from kappa_lib.errors import InputError
from kappa_lib.profiles import Profile
from kappa_lib.run import notebook
from kappa_lib.text import clock


def sources(folder: Path = paths.NOTEBOOKS) -> list[Path]:
    """The numbered notebooks, in order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def run(profile: Profile, source: str, only: list[str], force: bool = False) -> Path:
    """Execute what has changed, and write the report unless notebooks were picked.

    Args:
        profile: the settings.
        source: name or path by which the notebooks find the profile's file.
        only: beginnings of notebooks' names; all without.
        force: execute even what is unchanged.

    Returns:
        The report, or the folder of the executed notebooks.

    Raises:
        NotebookError: see :func:`kappa_lib.run.notebook.execute`.
        InputError: a profile that the notebooks are not about, or no such notebook.
    """
    _require_speech_and_two_arms(profile, source)
    chosen = _chosen(only)
    # The kernels inherit it: a warning of the debugger would be the first line of every log.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    logging.getLogger("papermill").setLevel(logging.ERROR)
    print(f"profile {profile.profile}: results in {profile.folder}")
    with files.alone(profile.folder, "notebooks"):
        execute(chosen, profile, source, force)
        if only:  # a report on a part of the notebooks would have to do the others' work
            return profile.folder / "notebooks"
        from kappa_lib.evidence import report  # heavy

        return report.write(profile)


def execute(chosen: list[Path], profile: Profile, source: str, force: bool = False) -> None:
    """Execute notebooks in turn, but for those that are unchanged; see :func:`run`."""
    # Kernels work in the notebooks' folder, where a relative path leads elsewhere.
    source = str(profiles.find(source)) if source.endswith((".yaml", ".yml")) else source
    as_filed, own = profiles.load(source).model_dump(), profile.model_dump()
    replaced = [key for key, value in own.items() if as_filed[key] != value]
    keys = notebook.keys(sources(chosen[0].parent), profile)
    # Whoever lacks a corpus asks for it again.
    force = force or _lacks_a_corpus(profile.folder)
    for index, path in enumerate(chosen, start=1):
        place, executed = f"[{index}/{len(chosen)}] {path.stem}", _executed(profile, path)
        if not force and notebook.is_current(executed, keys[path.stem]):
            print(f"{place}: unchanged, skipped")
            continue
        values = notebook.parameters(path, profile, replaced)
        values |= {"profile": source} if "profile" in values else {}
        resumes = notebook.unfinished(executed).is_file()
        print(place + (": resuming" if resumes else ""), flush=True)
        again = resumes or executed.is_file()
        notebook.execute(path, values, executed, keys[path.stem], bar=sys.stderr.isatty())
        took = notebook.durations(executed)
        _record_time(profile.folder, path.stem, took | {"resumed": again})
        print(f"{place}: done in {clock(took['seconds'])}", flush=True)


def _executed(profile: Profile, source: Path) -> Path:
    return profile.folder / "notebooks" / source.name


def _lacks_a_corpus(folder: Path) -> bool:
    split = folder / "split.json"
    return split.is_file() and bool(files.read_json(split, dict[str, object]).get("missing"))


def _record_time(folder: Path, name: str, entry: dict) -> None:
    """Keep in ``timings.json``, for the report, what a notebook and the installation took."""
    path = folder / "timings.json"
    content = files.read_json(path) if path.is_file() else {"notebooks": {}}
    content["notebooks"][name] = entry
    installation = os.environ.get("KAPPA_INSTALL_SECONDS")
    content["install_seconds"] = float(installation) if installation else None
    files.write_json(path, content)


def _chosen(only: list[str]) -> list[Path]:
    if not paths.in_clone():
        raise InputError(
            f"{paths.NOTEBOOKS}: no notebooks here; an installed package does not bring them",
            "call this in a clone of the repository, in an environment made by `bash reproduce.sh`",
        )
    found = [path for path in sources() if not only or path.name.startswith(tuple(only))]
    if not found:
        raise InputError(f"no notebook starts with {' or '.join(only)}", f"see {paths.NOTEBOOKS}")
    return found


def _require_speech_and_two_arms(profile: Profile, source: str) -> None:
    train = f"call `kappa train --profile {source}`"
    if profile.task != "speech":
        raise InputError(
            f"profile {profile.profile} is of text; the notebooks that train are about speech",
            f"{train}, and see notebook 6",
        )
    if missing := {"selected", "inverse"} - set(profile.arms):
        raise InputError(
            f"profile {profile.profile} has no arm {', '.join(sorted(missing))}, and the notebooks"
            " compare `selected` with `inverse`",
            f"add it to `arms`, or {train} for what notebook 6 shows",
        )
