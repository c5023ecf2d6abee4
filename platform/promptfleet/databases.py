"""Addresses of databases, for MLflow and Optuna."""

from pathlib import Path
from urllib.parse import quote

from promptfleet.errors import ConfigError


def sqlite_address(file: Path) -> str:
    """Return SQLAlchemy's address of an SQLite file; its absolute path may have any characters.

    Slashes are escaped like all other characters: MLflow makes the folders that it sees in an address, and it would
    take an escaped ``a%2541`` for the name of a folder.

    Raises:
        ConfigError: the path has bytes that are not UTF-8, which no address can hold.
    """
    try:
        return f"sqlite:///{quote(str(file.absolute()), safe='')}"
    except UnicodeEncodeError:
        raise ConfigError(f"storage.path={file.parent}: its name is not UTF-8, which databases need") from None
