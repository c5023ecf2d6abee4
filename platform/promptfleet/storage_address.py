"""Addresses for ``storage.path``: a check that they are complete and free of secrets."""

import re
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from promptfleet.errors import SECRET_OPTION

KNOWN = "s3|gs|gcs|abfs|abfss|hdfs|viewfs|file"
WITH_USER = ("abfs", "abfss", "hdfs", "viewfs")  # Azure's is the container
WITHOUT_HOST = ("hdfs", "viewfs")  # without a host they use the configured one
SECRETS = "got credentials in an address, should be without, since the environment has them"


def tidy_path(path: str) -> str:
    """Return ``path``, without the slashes at the end of an address.

    Raises ValueError: an address that is incomplete, or that holds a key or a password.
    """
    if "://" not in path:
        if found := re.match(rf"({KNOWN}):", path, re.IGNORECASE):
            raise ValueError(f"got {path!r}, should be {_form(found[1].lower())}, or ./{path} for a folder")
        return path
    try:
        address = urlsplit(path)
    except ValueError:
        raise ValueError(f"got {path!r}, should be {_form('s3')}") from None
    if _has_secret(address):
        raise ValueError(SECRETS)
    if not _is_complete(address):
        raise ValueError(f"got {path!r}, which lacks a part (an empty variable?), should be {_form(address.scheme)}")
    if "#" in path:
        raise ValueError(f"got {path!r}, should have %23 in the place of #")
    return path.rstrip("/")


def _is_complete(address: SplitResult) -> bool:
    user, at, host = address.netloc.rpartition("@")
    if re.search(r"[${}\s]", address.netloc) or (at and not user):
        return False
    if address.scheme == "file":
        return not host and bool(address.path.strip("/"))
    if not host:
        return address.scheme in WITHOUT_HOST and not at and bool(address.path.strip("/"))
    return "//" not in address.path


def _has_secret(address: SplitResult) -> bool:
    user, at, host = unquote(address.netloc).rpartition("@")
    public = not at or address.scheme in WITH_USER or (address.scheme, user) == ("gs", "anonymous")
    _, colon, port = host.partition(":")
    if not public or ":" in user or (colon and not port.isdecimal()):
        return True
    options = parse_qsl(address.query, keep_blank_values=True)
    return any(SECRET_OPTION.search(name) or "@" in value for name, value in options)


def _form(scheme: str) -> str:
    forms = {
        "abfs": "abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER",
        "abfss": "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER",
        "hdfs": "hdfs://HOST/FOLDER",
        "viewfs": "viewfs://HOST/FOLDER",
        "file": "file:///FOLDER",
    }
    return forms.get(scheme, f"{scheme}://BUCKET/FOLDER")
