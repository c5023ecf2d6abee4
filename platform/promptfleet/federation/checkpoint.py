"""A federation on disk between two rounds: one safetensors file with all states, and what the rounds reported."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from promptfleet.atomic_files import replacing
from promptfleet.errors import DataError
from promptfleet.federation.reports import Evaluation, RoundReport, round_report_from_dict
from promptfleet.federation.rounds import Snapshot
from promptfleet.methods.protocol import State

FILE = "federation.safetensors"
VERSION = "2"
_SERVER = "server"


def save_snapshot(folder: str | Path, snapshot: Snapshot, fingerprint: str) -> Path:
    """Replace the checkpoint in ``folder`` in one step: a reader sees the old one or the new one, never a part."""
    path = Path(folder) / FILE
    tensors = {f"{_SERVER}/{name}": tensor.contiguous() for name, tensor in snapshot.server.items()}
    for client, state in snapshot.privates.items():
        tensors |= {f"{client}/{name}": tensor.contiguous() for name, tensor in state.items()}
    metadata = {
        "version": VERSION,
        "fingerprint": fingerprint,
        "clients": json.dumps(sorted(snapshot.privates)),  # also of those whose private state is empty
        "reports": json.dumps([asdict(report) for report in snapshot.reports]),
        "evaluations": json.dumps([asdict(evaluation) for evaluation in snapshot.evaluations]),
    }
    with replacing(path) as partial:
        save_file(tensors, partial, metadata)
    return path


def load_snapshot(folder: str | Path, fingerprint: str) -> Snapshot | None:
    """The checkpoint in ``folder``, or None where there is none.

    Raises:
        DataError: if it is damaged, of another format version, or of a federation with another configuration.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: damaged ({error})") from None
    if metadata.get("version") != VERSION:
        raise DataError(f"{path}: checkpoint version {metadata.get('version')}, this promptfleet reads {VERSION}")
    if metadata["fingerprint"] != fingerprint:
        raise DataError(f"{path}: a checkpoint of a federation with another configuration")
    owners: dict[str, State] = {}
    for name, tensor in tensors.items():
        owner, _, key = name.partition("/")
        owners.setdefault(owner, {})[key] = tensor
    privates = {client: owners.get(str(client), {}) for client in json.loads(metadata["clients"])}
    reports: list[RoundReport] = [round_report_from_dict(report) for report in json.loads(metadata["reports"])]
    evaluations = [Evaluation(**evaluation) for evaluation in json.loads(metadata["evaluations"])]
    return Snapshot(owners.get(_SERVER, {}), privates, reports, evaluations)
