"""A federation's folder on disk: its result beside its checkpoint."""

from pathlib import Path

from promptfleet.federation.checkpoint import load_snapshot, save_snapshot
from promptfleet.federation.reports import FederationResult
from promptfleet.federation.rounds import Federation

RESULT_FILE = "result.json"


def save_federation(folder: Path, federation: Federation) -> None:
    """Write checkpoint and result of the rounds so far, each in one step."""
    snapshot = federation.snapshot()
    save_snapshot(folder, snapshot, federation.config.fingerprint())
    partial = folder / f"{RESULT_FILE}.partial"
    partial.write_text(federation.result(snapshot).to_json())
    partial.replace(folder / RESULT_FILE)


def load_result(folder: Path, fingerprint: str) -> FederationResult | None:
    """The result with its states, or None if no round was finished. Raises DataError if the checkpoint is damaged."""
    snapshot = load_snapshot(folder, fingerprint)
    if snapshot is None or not (folder / RESULT_FILE).exists():
        return None
    return FederationResult.from_json((folder / RESULT_FILE).read_text(), snapshot.server, snapshot.privates)
