"""Federation on disk between two rounds: a file with the server's state, the reports and the places of private states.

A file is complete or missing. A checkpoint holds checksums of all its content and of each private state. Content that
cannot be trusted is never used: the checkpoint of the round before is. A file that the disk cannot read is another
matter: its content may be good, so no other file replaces it.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from promptfleet.disks import disk_errors
from promptfleet.errors import DataError, StorageError, first_line
from promptfleet.federation.checkpoints.files import (
    FOLDER,
    DamagedCheckpoint,
    checkpoint_path,
    checkpoint_paths,
    round_of,
)
from promptfleet.federation.checkpoints.private_states import (
    NO_STATES,
    StoredStates,
    read_states,
    remove_unneeded,
    write_states,
)
from promptfleet.federation.evaluation.scores import Evaluation
from promptfleet.federation.reports import RoundReport, best_round, check_rounds, last_evaluated
from promptfleet.federation.rounds import Snapshot
from promptfleet.methods.parts.states import state_sha256
from promptfleet.methods.protocol import State
from promptfleet.strict_json import parse_json
from promptfleet.tensor_file import read_tensors, write_tensors

VERSION = "6"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """Checkpoint that was written: its file, the bytes written with its private states, and where all of those are."""

    path: Path
    bytes: int
    states: StoredStates


@dataclass(frozen=True)
class Loaded:
    """Checkpoint that was read: the federation, and where its private states are."""

    snapshot: Snapshot
    states: StoredStates


def save_snapshot(
    folder: str | Path, snapshot: Snapshot, fingerprint: str, *, keep: int = 1, known: StoredStates = NO_STATES
) -> Saved:
    """Write the checkpoint of the last round of ``snapshot``, then remove earlier ones that are not kept.

    The last ``keep`` are kept, and the best one, which is that of the highest validation accuracy. None of a later
    round is removed. Private states that no checkpoint needs are removed. ``fingerprint`` is the configuration's.
    known: private states of the checkpoint that was written or read before in ``folder``; those are not written again.

    Raises:
        OSError: the disk refuses to write; what was there before stays.
        StorageError: a checkpoint there cannot be read; no private state is removed.
    """
    path = checkpoint_path(folder, len(snapshot.reports))
    hashes = {client: state_sha256(snapshot.privates[client], {}) for client in sorted(snapshot.privates)}
    # cloned: safetensors refuses a tensor that has two names
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in snapshot.server.items()}
    try:
        privates = {hashes[client]: snapshot.privates[client] for client in hashes}
        states, private_bytes = write_states(path.parent, len(snapshot.reports), privates, known)
        metadata = {
            "version": VERSION,
            "fingerprint": fingerprint,
            **states.to_metadata(list(hashes.values())),
            "reports": json.dumps([asdict(report) for report in snapshot.reports]),
            "evaluations": json.dumps([asdict(evaluation) for evaluation in snapshot.evaluations]),
            "states_sha256": snapshot.sha256,
        }
        write_tensors(path, tensors, {**metadata, "sha256": _checksum(metadata)})
    except OSError:
        with suppress(OSError, StorageError):
            remove_unneeded(folder)
        raise
    _remove_others(path, snapshot, keep)
    remove_unneeded(folder)
    return Saved(path, private_bytes + path.stat().st_size, states)


def load_snapshot(folder: str | Path, fingerprint: str, clients: int | None = None) -> Snapshot | None:
    """Return the federation in the newest usable checkpoint, see ``load_checkpoint``."""
    loaded = load_checkpoint(folder, fingerprint, clients)
    return loaded and loaded.snapshot


def load_checkpoint(folder: str | Path, fingerprint: str, clients: int | None = None) -> Loaded | None:
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
            loaded = read_checkpoint(path, fingerprint)
            there = len(loaded.snapshot.privates)
            if clients not in (None, there):
                raise DamagedCheckpoint(f"{path}: damaged ({there} clients, should be {clients})")
            return loaded
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


def read_checkpoint(path: Path, fingerprint: str) -> Loaded:
    """Read one checkpoint.

    Raises:
        StorageError: the disk does not give it, or a file that it names.
        DamagedCheckpoint: it was cut off or altered, or a file that it names was, or is missing.
        DataError: it is of another format version, or of a federation with another configuration.
    """
    try:
        with disk_errors(path, doing="read"):
            metadata, server = read_tensors(path)
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
        states, hashes = StoredStates.of_metadata(metadata)
        privates = read_states(path.parent, states.places)
        snapshot = _snapshot(metadata, server, [privates[one] for one in hashes])
    except (KeyError, ValueError, IndexError) as error:
        raise DamagedCheckpoint(f"{path}: damaged ({first_line(error)})") from None
    if len(snapshot.reports) != round_of(path):
        raise DamagedCheckpoint(f"{path}: damaged (it has {len(snapshot.reports)} rounds)")
    if snapshot.sha256 != metadata.get("states_sha256"):
        raise DamagedCheckpoint(f"{path}: damaged (its states are not what was written)")
    return Loaded(snapshot, states)


def _snapshot(metadata: Mapping[str, str], server: State, privates: Sequence[State]) -> Snapshot:
    """Return the snapshot in a checkpoint.

    Raises KeyError, ValueError or IndexError: something is missing, of another type, or does not fit the rest.
    """
    reports = parse_json(list[RoundReport], metadata["reports"])
    check_rounds(reports, clients=len(privates))
    evaluations = parse_json(list[Evaluation], metadata["evaluations"])
    last = last_evaluated(reports)
    columns = [last.client_val_accuracy, *last.client_accuracy.values()] if last else []
    evaluated = [client for client in range(len(privates)) if any(column[client] is not None for column in columns)]
    if [evaluation.client for evaluation in evaluations] != evaluated:
        raise ValueError("its evaluations are not those of its clients")
    return Snapshot(server, dict(enumerate(privates)), reports, evaluations)


def _remove_others(newest: Path, snapshot: Snapshot, keep: int) -> None:
    best = best_round(snapshot.reports).round if snapshot.reports else None
    before = sorted(path for path in checkpoint_paths(newest.parent.parent) if path <= newest)
    for path in before[:-keep]:
        if round_of(path) != best:
            path.unlink(missing_ok=True)


def _checksum(metadata: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
