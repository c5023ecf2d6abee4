"""Federation on disk between two rounds: one safetensors file with all states and the reports of the rounds.

A file is complete or missing, and holds checksums of all its content. Content that cannot be trusted is never used: the
checkpoint of the round before is. A file that the disk cannot read is another matter: its content may be good, so no
other file replaces it.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptfleet.disks import disk_errors
from promptfleet.errors import DataError, StorageError, first_line
from promptfleet.federation.checkpoints.files import (
    FOLDER,
    DamagedCheckpoint,
    checkpoint_path,
    checkpoint_paths,
    round_of,
)
from promptfleet.federation.evaluation.scores import Evaluation
from promptfleet.federation.reports import RoundReport, best_round, check_rounds, last_evaluated
from promptfleet.federation.rounds import Snapshot
from promptfleet.methods.parts.states import group_by_layout
from promptfleet.methods.protocol import State
from promptfleet.strict_json import Counts, parse_json
from promptfleet.tensor_file import read_tensors, write_tensors

VERSION = "5"
_SERVER = "server"

logger = logging.getLogger(__name__)


def save_snapshot(folder: str | Path, snapshot: Snapshot, fingerprint: str, *, keep: int = 1) -> Path:
    """Write the checkpoint of the last round of ``snapshot``, then remove earlier ones that are not kept.

    The last ``keep`` are kept, and the best one, which is that of the highest validation accuracy. None of a later
    round is removed. ``fingerprint`` is the configuration's.

    Raises:
        OSError: the disk refuses; what was there before stays.
    """
    path = checkpoint_path(folder, len(snapshot.reports))
    # cloned: safetensors refuses a tensor that has two names
    tensors = {f"{_SERVER}/{name}": tensor.detach().contiguous().clone() for name, tensor in snapshot.server.items()}
    groups = group_by_layout(snapshot.privates)
    for number, states in enumerate(groups):
        for name in next(iter(states.values())):
            tensors[f"{number}/{name}"] = torch.stack([state[name].detach() for state in states.values()])
    metadata = {
        "version": VERSION,
        "fingerprint": fingerprint,
        "clients": json.dumps([list(states) for states in groups]),  # ids in the order of the states
        "reports": json.dumps([asdict(report) for report in snapshot.reports]),
        "evaluations": json.dumps([asdict(evaluation) for evaluation in snapshot.evaluations]),
        "states_sha256": snapshot.sha256,
    }
    write_tensors(path, tensors, {**metadata, "sha256": _checksum(metadata)})
    _remove_others(path, snapshot, keep)
    return path


def load_snapshot(folder: str | Path, fingerprint: str, clients: int | None = None) -> Snapshot | None:
    """Return the newest usable checkpoint in ``folder``, with a warning about each that is not; None without any.

    ``clients`` is the federation's number of clients, if it is known.

    Raises:
        StorageError: one cannot be read; no older one replaces it.
        DamagedCheckpoint: all of them are damaged.
        DataError: all of them are of another configuration, or of a newer promptfleet.
    """
    paths, foreign = sorted(checkpoint_paths(folder), reverse=True), None
    for path in paths:
        try:
            snapshot = read_snapshot(path, fingerprint)
            if clients not in (None, len(snapshot.privates)):
                raise DamagedCheckpoint(f"{path}: damaged ({len(snapshot.privates)} clients, should be {clients})")
            return snapshot
        except StorageError:
            raise
        except DamagedCheckpoint as error:
            logger.warning("%s; taking the one before", error)
        except DataError as error:
            logger.warning("%s; taking the one before", error)
            foreign = foreign or error
    if foreign is not None:
        raise foreign
    if paths:
        raise DamagedCheckpoint(f"{Path(folder) / FOLDER}: none of the {len(paths)} checkpoints there can be used")
    return None


def read_snapshot(path: Path, fingerprint: str) -> Snapshot:
    """Read one checkpoint.

    Raises:
        StorageError: the disk does not give it.
        DamagedCheckpoint: it was cut off or altered.
        DataError: it is of another format version, or of a federation with another configuration.
    """
    try:
        with disk_errors(path, doing="read"):
            metadata, tensors = read_tensors(path)
    except ValueError as error:
        raise DamagedCheckpoint(f"{path}: damaged ({error})") from None
    version, checksum = metadata.get("version"), metadata.pop("sha256", None)
    if version != VERSION:
        raise DataError(f"{path}: checkpoint version {version}, this promptfleet reads {VERSION}")
    if checksum != _checksum(metadata):
        raise DamagedCheckpoint(f"{path}: damaged (its text is not what was written)")
    if metadata.get("fingerprint") != fingerprint:
        raise DataError(f"{path}: a checkpoint of a federation with another configuration")
    try:
        snapshot = _snapshot(metadata, tensors)
    except (KeyError, ValueError, IndexError) as error:
        raise DamagedCheckpoint(f"{path}: damaged ({first_line(error)})") from None
    if len(snapshot.reports) != round_of(path):
        raise DamagedCheckpoint(f"{path}: damaged (it has {len(snapshot.reports)} rounds)")
    if snapshot.sha256 != metadata.get("states_sha256"):
        raise DamagedCheckpoint(f"{path}: damaged (its states are not what was written)")
    return snapshot


def _snapshot(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Snapshot:
    """Return the snapshot in a checkpoint.

    Raises KeyError, ValueError or IndexError: something is missing, of another type, or does not fit the rest.
    """
    owners: dict[str, State] = {}
    for name, tensor in tensors.items():
        owner, _, key = name.partition("/")
        owners.setdefault(owner, {})[key] = tensor
    groups = parse_json(list[Counts], metadata["clients"])
    everybody = sorted(client for clients in groups for client in clients)
    if everybody != list(range(len(everybody))):
        raise ValueError("its clients are not numbered from 0")
    privates: dict[int, State] = {}
    for number, clients in enumerate(groups):
        stacked = owners.get(str(number), {})
        if any(tensor.shape[0] != len(clients) for tensor in stacked.values()):
            raise ValueError("its states are not those of its clients")
        columns = {name: tensor.unbind() for name, tensor in stacked.items()}
        for row, client in enumerate(clients):
            privates[client] = {name: column[row] for name, column in columns.items()}
    reports = parse_json(list[RoundReport], metadata["reports"])
    check_rounds(reports, clients=len(everybody))
    evaluations = parse_json(list[Evaluation], metadata["evaluations"])
    last = last_evaluated(reports)
    columns = [last.client_val_accuracy, *last.client_accuracy.values()] if last else []
    evaluated = [client for client in everybody if any(column[client] is not None for column in columns)]
    if [evaluation.client for evaluation in evaluations] != evaluated:
        raise ValueError("its evaluations are not those of its clients")
    return Snapshot(owners.get(_SERVER, {}), privates, reports, evaluations)


def _remove_others(newest: Path, snapshot: Snapshot, keep: int) -> None:
    best = best_round(snapshot.reports).round if snapshot.reports else None
    before = sorted(path for path in checkpoint_paths(newest.parent.parent) if path <= newest)
    for path in before[:-keep]:
        if round_of(path) != best:
            path.unlink(missing_ok=True)


def _checksum(metadata: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
