"""Code that a configuration names as ``module:Class``: its import, with one line if that fails."""

import traceback
from importlib import import_module

from promptfleet.errors import ConfigError


def is_foreign(name: str) -> bool:
    """Return True if a name is that of code outside this package."""
    return ":" in name and not name.startswith(f"{__name__.partition('.')[0]}.")


def imported(name: str, *, kind: str) -> object:
    """Return the object at ``module:name``. Raises ConfigError, which calls it a ``kind``: it cannot be imported."""
    module, _, attribute = name.partition(":")
    if module.rpartition(".")[2] == "__main__":
        raise ConfigError(f"{kind} {name!r} cannot be imported: it is a program, not a module")
    try:
        return getattr(import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{kind} {name!r} cannot be imported: {described(error)}") from error


def described(error: BaseException) -> str:
    """Return the message of a missing module or attribute; for any other error its type and place, too."""
    if isinstance(error, ImportError | AttributeError) or error.__traceback__ is None:
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
