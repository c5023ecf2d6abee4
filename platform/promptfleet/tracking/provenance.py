"""Provenance of a run: its code, its packages, its command."""

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
    """Return tags for a run; git's only if this code is part of a git checkout."""
    source = {"mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
    return {"command": command(), **source, **git_tags(_SOURCE)}


def provenance() -> dict[str, Any]:
    """Return all provenance for a file: the command, the commit if there is one, the versions of the main packages."""
    git = {name: value for name, value in git_tags(_SOURCE).items() if name.startswith("git_")}
    return {"command": command(), **git, "versions": versions()}


@cache
def versions() -> dict[str, str]:
    """Return versions by package, this one and Python first; packages that are not installed are left out."""
    found = {"promptfleet": __version__, "python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command() -> str:
    """Return the command line of this process, ready for a shell; without passwords in addresses."""
    return mask_secrets(shlex.join(sys.orig_argv))


@cache
def git_tags(source: Path) -> dict[str, str]:
    """Return the commit of the checkout that tracks ``source``, and if it was changed; empty without a checkout.

    A package installed into an environment that merely is inside a checkout is not tracked by it. Read once per
    process: the running code is the code that was loaded.
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
