"""Partition of a federation, by its configuration."""

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from promptfleet.config import FederationConfig, merge
from promptfleet.config_types import expand_home
from promptfleet.data.partition import Partition, make_partition
from promptfleet.data.partition_file import check_fits, check_seen, load_partition
from promptfleet.data.samples import Samples
from promptfleet.data.unseen import held_out_clients, new_samples, unseen_domain
from promptfleet.errors import DataError


def partition_for(config: FederationConfig, samples: Samples) -> Partition:
    """Return the partition of this federation: drawn from its seed, or read from ``partition.file``.

    Raises:
        ConfigError, DataError: that is impossible, or the file is missing, damaged or for something else.
    """
    settings = config.partition
    if settings.file is None:
        return make_partition(samples, clients=config.clients, settings=settings, seed=config.seed)
    stored = load_partition(settings.file)
    if stored.partition.fingerprint() != settings.fingerprint:
        raise DataError(
            f"partition.file={settings.file}: changed, it is not the one that partition.fingerprint names; leave "
            f"partition.fingerprint out to take the file as it is"
        )
    check_fits(stored, settings.file, samples, dataset=config.dataset, clients=config.clients)
    check_seen(stored.partition, settings, samples)
    new, domain = new_samples(samples, settings), unseen_domain(samples, settings)
    held_out = held_out_clients(settings, config.clients, config.seed)
    return replace(stored.partition, new=new, unseen_domain=domain, held_out=held_out)


def with_partition_fingerprint(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return nested values of a configuration, with ``partition.fingerprint`` of ``partition.file`` if that is set.

    The configuration is then bound to the file's content. The path is made absolute, since trials run elsewhere. Raises
    DataError if the file cannot be read.
    """
    section = values.get("partition")
    path = section.get("file") if isinstance(section, Mapping) else None
    if not isinstance(path, str | PathLike) or section.get("fingerprint") is not None:
        return values
    try:
        path = Path(expand_home(fspath(path))).absolute()
    except ValueError:  # the configuration's own check reports that
        return values
    found = {"file": str(path), "fingerprint": load_partition(path).partition.fingerprint()}
    return merge(values, {"partition": found})
