"""What a run was made with: the code, the packages, the command."""

import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from promptfleet import __version__
from promptfleet.errors import mask_secrets

_PACKAGES = ("torch", "open_clip_torch", "ray", "optuna", "mlflow", "numpy")
_SOURCE = Path(__file__).resolve().parents[1] / "__init__.py"


def provenance_tags() -> dict[str, str]:
    """Tags for a run; those on git only where this code is part of a git checkout."""
    source = {"mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
    return {"command": command(), **source, **git_tags(_SOURCE)}


def provenance() -> dict[str, Any]:
    """All of it, for a file: the command, the commit where there is one, the versions of what matters."""
    git = {name: value for name, value in git_tags(_SOURCE).items() if name.startswith("git_")}
    return {"command": command(), **git, "versions": versions()}


@cache
def versions() -> dict[str, str]:
    """Versions by package, this one and Python first; packages that are not installed are left out."""
    found = {"promptfleet": __version__, "python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command line of this process, ready to be pasted into a shell; without passwords in addresses."""
    return mask_secrets(shlex.join(sys.orig_argv))


@cache
def git_tags(source: Path) -> dict[str, str]:
    """Commit of the checkout that tracks ``source``, and whether it differs from that; empty where none does.

    A package installed into an environment that merely lies in someone's checkout is not tracked by it. Read once per
    process: the code that runs is the code that was loaded.
    """
    try:
        _git(source.parent, "ls-files", "--error-unmatch", source.name)
        commit = _git(source.parent, "rev-parse", "HEAD")
        changed = _git(source.parent, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git_commit": commit, "git_dirty": str(bool(changed)).lower(), "mlflow.source.git.commit": commit}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()
