"""Mistakes that a user can make. Each ends in one line on stderr and exit status 2."""

import difflib
import re
from collections.abc import Iterable

from promptfleet.escaping import printable

LONGEST = 2000  # characters of a message
SECRET_OPTION = re.compile(
    r"secret|passw|pwd|token|signature|^sig$|(access|account|api|private|shared)[_-]?key|^key$|^sas|credential(?!_kind)",
    re.IGNORECASE,
)
_IN_ADDRESS = re.compile(r"(\w[\w+.-]*://)[^\s'\"@]*:[^\s'\"@]*@")
_OPTION = re.compile(r"([?&]([^=&\s]+)=)[^&\s'\"]+")


class PromptfleetError(Exception):
    """Root of all errors that promptfleet raises on purpose; its text is one line for the user."""

    def __str__(self) -> str:
        text = mask_secrets(printable(super().__str__()))
        half = LONGEST // 2
        return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"


class ConfigError(PromptfleetError):
    """A configuration, search space or command line that cannot be run as written."""


class DataError(PromptfleetError):
    """A dataset, partition or feature store that is missing, damaged or impossible."""


class StorageError(DataError):
    """A disk that refuses: it is full, read-only, missing, or has something else there. Its content stays as it is."""


class BackboneError(PromptfleetError):
    """A CLIP that cannot be loaded, or that the prompt encoder does not support."""


class ResourceError(PromptfleetError):
    """A federation that does not fit the machine or the cluster."""


class MethodError(PromptfleetError):
    """A method that breaks the contract of ``Method``."""


class FederationError(PromptfleetError):
    """A federation that cannot continue: too many of its processes died, or its clients failed too often."""


def mask_secrets(text: str) -> str:
    """Return ``text`` with ``***`` for the passwords and keys of the addresses in it."""
    text = _IN_ADDRESS.sub(r"\1***@", text)
    return _OPTION.sub(lambda found: f"{found[1]}***" if SECRET_OPTION.search(found[2]) else found[0], text)


def first_line(error: BaseException) -> str:
    """Return the first line of the error's text; its type if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ``did you mean 'digits'?`` for an error about ``name``; empty if no known name is near.

    cutoff: the least likeness, 0..1; at 0 every name is near.
    """
    near = nearest(name, known, cutoff=cutoff)
    return "" if near is None else f"did you mean {near!r}?"


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name that differs in ``_``, ``-``, spaces or case alone; else the most similar one, if any."""
    known = list(known)
    same = [one for one in known if _letters(one) == _letters(name)]
    return next(iter(same or difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def _letters(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).casefold()
