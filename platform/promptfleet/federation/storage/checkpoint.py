"""A federation on disk between two rounds: one safetensors file with all states and what the rounds reported.

A file is there whole or not at all, and holds checksums of everything in it. What cannot be trusted is never used: the
checkpoint of the round before is.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from promptfleet.atomic_files import replacing
from promptfleet.errors import DataError, first_line
from promptfleet.federation.reports import Evaluation, RoundReport, best_round, check_rounds
from promptfleet.federation.rounds import Snapshot
from promptfleet.federation.state import alike
from promptfleet.methods.protocol import State
from promptfleet.strict_json import Counts, parse_json

FOLDER = "checkpoints"
VERSION = "4"
_SERVER = "server"
_NAME = re.compile(r"round-(\d{6})\.safetensors")

logger = logging.getLogger(__name__)


def save_snapshot(folder: str | Path, snapshot: Snapshot, fingerprint: str, *, keep: int = 1) -> Path:
    """Write the checkpoint of the last round of ``snapshot``, then remove all but the last ``keep`` and the best one.

    The best is that of the highest validation accuracy. ``fingerprint`` is the configuration's.

    Raises:
        OSError: the disk refuses; what was there before stays.
    """
    path = Path(folder) / FOLDER / f"round-{len(snapshot.reports):06d}.safetensors"
    # cloned: safetensors refuses a tensor that has two names
    tensors = {f"{_SERVER}/{name}": tensor.detach().contiguous().clone() for name, tensor in snapshot.server.items()}
    groups = alike(snapshot.privates)
    for number, states in enumerate(groups):
        for name in next(iter(states.values())):
            tensors[f"{number}/{name}"] = torch.stack([state[name].detach() for state in states.values()])
    metadata = {
        "version": VERSION,
        "fingerprint": fingerprint,
        "clients": json.dumps([list(states) for states in groups]),  # whose states stand one after the other
        "reports": json.dumps([asdict(report) for report in snapshot.reports]),
        "evaluations": json.dumps([asdict(evaluation) for evaluation in snapshot.evaluations]),
        "states_sha256": snapshot.sha256,
    }
    with replacing(path) as partial:
        try:
            save_file(tensors, partial, {**metadata, "sha256": _checksum(metadata)})
        except SafetensorError as error:
            raise OSError(str(error)) from None
    _remove_others(path, snapshot, keep)
    return path


def load_snapshot(folder: str | Path, fingerprint: str, clients: int | None = None) -> Snapshot | None:
    """The newest checkpoint in ``folder`` that can be used, with a warning about each that cannot; None without any.

    ``clients`` is how many the federation has, where that is known.

    Raises:
        DataError: there are only checkpoints of another configuration, or of a newer promptfleet.
    """
    foreign = None
    for path in sorted(_checkpoints(Path(folder) / FOLDER), reverse=True):
        try:
            snapshot = read_snapshot(path, fingerprint)
            if clients not in (None, len(snapshot.privates)):
                raise DamagedCheckpoint(f"{path}: damaged ({len(snapshot.privates)} clients, should be {clients})")
            return snapshot
        except DamagedCheckpoint as error:
            logger.warning("%s; taking the one before", error)
        except DataError as error:
            logger.warning("%s; taking the one before", error)
            foreign = foreign or error
    if foreign is not None:
        raise foreign
    return None


class DamagedCheckpoint(DataError):
    """A checkpoint that is not what was written."""


def read_snapshot(path: Path, fingerprint: str) -> Snapshot:
    """One checkpoint.

    Raises:
        DamagedCheckpoint: it was cut off or altered.
        DataError: it is of another format version, or of a federation with another configuration.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{path}: damaged ({error})") from None
    version, checksum = metadata.get("version"), metadata.pop("sha256", None)
    if version != VERSION:
        raise DataError(f"{path}: checkpoint version {version}, this promptfleet reads {VERSION}")
    if checksum != _checksum(metadata):
        raise DamagedCheckpoint(f"{path}: damaged (its text is not what was written)")
    if metadata["fingerprint"] != fingerprint:
        raise DataError(f"{path}: a checkpoint of a federation with another configuration")
    try:
        snapshot = _snapshot(metadata, tensors)
    except (KeyError, ValueError, IndexError) as error:
        raise DamagedCheckpoint(f"{path}: damaged ({first_line(error)})") from None
    if len(snapshot.reports) != int(_NAME.fullmatch(path.name)[1]):
        raise DamagedCheckpoint(f"{path}: damaged (it has {len(snapshot.reports)} rounds)")
    if snapshot.sha256 != metadata["states_sha256"]:
        raise DamagedCheckpoint(f"{path}: damaged (its states are not what was written)")
    return snapshot


def _snapshot(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Snapshot:
    """Raises KeyError, ValueError or IndexError: something is missing, of another type, or does not fit the rest."""
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
    if [evaluation.client for evaluation in evaluations] != everybody:
        raise ValueError("its evaluations are not those of its clients")
    return Snapshot(owners.get(_SERVER, {}), privates, reports, evaluations)


def newest_round(folder: str | Path) -> int | None:
    """The round of the newest checkpoint in ``folder``, whatever it holds; None without any."""
    return max((int(_NAME.fullmatch(path.name)[1]) for path in _checkpoints(Path(folder) / FOLDER)), default=None)


def clear_checkpoints(folder: str | Path) -> None:
    """Remove all checkpoints in ``folder``."""
    for path in _checkpoints(Path(folder) / FOLDER):
        path.unlink()


def remove_unfinished(folder: str | Path) -> None:
    """Remove what a process that was killed while it wrote has left."""
    for path in (Path(folder) / FOLDER).glob("*.partial"):
        path.unlink(missing_ok=True)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("round-*.safetensors") if _NAME.fullmatch(path.name)]


def _remove_others(newest: Path, snapshot: Snapshot, keep: int) -> None:
    best = best_round(snapshot.reports).round if snapshot.reports else None
    numbered = sorted((int(_NAME.fullmatch(path.name)[1]), path) for path in _checkpoints(newest.parent))
    kept = [path for _, path in numbered if path <= newest][-keep:]
    for number, path in numbered:
        if path not in kept and number != best:
            path.unlink(missing_ok=True)


def _checksum(metadata: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
