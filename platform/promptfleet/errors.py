"""The mistakes a user can make. Each ends in one line on stderr and exit status 2."""

import difflib
from collections.abc import Iterable


class PromptfleetError(Exception):
    """Root of everything promptfleet raises on purpose; its text is meant for the user as it is."""


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


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """``did you mean 'digits'?`` for an error about ``name``; empty where no known name is near.

    cutoff: the least likeness, 0..1; at 0 every name is near.
    """
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {nearest[0]!r}?" if nearest else ""
