"""Token that processes of a Ray on this machine demand from each other."""

import contextlib
import functools
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
FILE = ".ray/auth_token"


@contextlib.contextmanager
def private_token() -> Iterator[None]:
    """Give a Ray that is started within this block a token that other users cannot read.

    Ray itself keeps one in ``~/.ray/auth_token``, readable for all users, and does not start without it. If that file
    cannot be used, or there is no home at all, a token of this process alone replaces it.
    """
    chosen = os.environ.get(TOKEN) or os.environ.get(TOKEN_PATH) or os.environ.get(MODE, "token").lower() != "token"
    if chosen:
        yield
        return
    os.environ[TOKEN] = _token()
    try:
        yield
    finally:
        del os.environ[TOKEN]


@functools.cache
def _token() -> str:
    """Return the token of this process; Ray remembers the first one that it sees."""
    try:
        return kept_token(Path.home() / FILE)
    except (OSError, RuntimeError, ValueError):  # RuntimeError: there is no home
        return secrets.token_hex(32)


def kept_token(path: Path) -> str:
    """Return the token in a file, which is made if missing, and made private to this user.

    Raises:
        OSError: it cannot be made or read.
        ValueError: it is empty, or no text.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name) as file:  # private to this user
            file.write(secrets.token_hex(32))
            file.flush()
            with contextlib.suppress(FileExistsError):  # another driver was faster
                os.link(file.name, path)
    with path.open() as file:
        with contextlib.suppress(PermissionError):  # another user's
            os.fchmod(file.fileno(), 0o600)
        token = file.read().strip()
    if not token:
        raise ValueError(f"{path} is empty")
    return token
