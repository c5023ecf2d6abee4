"""The mistakes a user can make. Each ends in one line on stderr and exit status 2."""

import difflib
from collections.abc import Iterable

from promptfleet.escaping import printable

LONGEST = 2000  # characters of a message


class PromptfleetError(Exception):
    """Root of everything promptfleet raises on purpose; its text, one line, is meant for the user as it is."""

    def __str__(self) -> str:
        text = printable(super().__str__())
        half = LONGEST // 2
        return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"


class ConfigError(PromptfleetError):
    """A configuration, search space or command line that cannot be run as written."""


class DataError(PromptfleetError):
    """A dataset, partition or feature store that is missing, damaged or impossible."""


class BackboneError(PromptfleetError):
    """A CLIP that cannot be loaded, or that the prompt encoder does not support."""


class ResourceError(PromptfleetError):
    """A federation that does not fit the machine or the cluster."""


class FederationError(PromptfleetError):
    """A federation that cannot go on: too many of its processes died, or its clients failed too often."""


def first_line(error: BaseException) -> str:
    """Of what the error says; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """``did you mean 'digits'?`` for an error about ``name``; empty where no known name is near.

    cutoff: the least likeness, 0..1; at 0 every name is near.
    """
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {nearest[0]!r}?" if nearest else ""
