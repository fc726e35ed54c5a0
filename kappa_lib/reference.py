"""Keep the small results of a run in the repository, and the README's table true to them.

``python -m kappa_lib.reference laptop`` copies from ``results/laptop`` to
``results/reference/laptop`` and writes the README's results block from the copy.
"""

import os
import shutil
import sys
from pathlib import Path

from kappa_lib import paths, profiles, report
from kappa_lib.errors import InputError
from kappa_lib.files import replacing
from kappa_lib.profiles import Profile

REFERENCE = paths.ROOT / "results" / "reference"
README = paths.ROOT / "README.md"
KEPT = (
    "REPORT.md",
    "metrics.csv",
    "kappa.csv",
    "split.json",
    "timings.json",
    "claims/*.json",
    "figures/*",
    "selections/*.json",
    "runs/*/config.json",
    "runs/*/metrics.jsonl",
    "runs/*/provenance.json",
)


def publish(profile: Profile) -> Path:
    """Copy a finished run's small files to ``results/reference`` and update the README.

    Raises:
        InputError: the profile has not been run to its report.
    """
    if not (profile.folder / report.FILE).is_file():
        raise InputError(
            f"{profile.folder} holds no {report.FILE}",
            f"run `bash reproduce.sh --profile {profile.profile}` first",
        )
    target = REFERENCE / profile.profile
    found = [path for pattern in KEPT for path in sorted(profile.folder.glob(pattern))]
    with replacing(target) as temporary:
        for path in found:
            copy = temporary / path.relative_to(profile.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        shutil.rmtree(target, ignore_errors=True)
    os.environ["KAPPA_RESULTS"] = str(REFERENCE)
    report.update_readme(profile, README)
    return target


if __name__ == "__main__":
    print(publish(profiles.load(sys.argv[1])))
