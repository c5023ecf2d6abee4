"""Values of a configuration, complete with the content of the files that they name."""

from collections.abc import Mapping
from typing import Any

from promptfleet.class_texts import with_texts_of_files
from promptfleet.federation.partitioning import with_partition_fingerprint


def with_file_contents(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return nested values that are bound to the content of their files, before trials run elsewhere.

    Raises ConfigError, DataError: a file cannot be read, or is another one now.
    """
    return with_texts_of_files(with_partition_fingerprint(values))
