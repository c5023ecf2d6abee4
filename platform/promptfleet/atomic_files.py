"""Files that are there complete or not at all, whoever reads, writes or dies meanwhile."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; on leaving, that file becomes ``path`` in one step.

    The folder is made where it is missing. The content is on disk before the name changes, so a power cut leaves the
    old file or the new one. No two writers share a temporary name, be they threads or machines: the last one wins.
    After an exception ``path`` is as it was and the temporary file is gone; a killed process leaves a ``.partial``
    file, which is in nobody's way.

    Raises:
        OSError: if the disk refuses, or the block wrote no file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
