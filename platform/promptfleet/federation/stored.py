"""A federation's folder on disk: its result beside its checkpoint."""

from pathlib import Path

from promptfleet.atomic_files import replacing
from promptfleet.config import fingerprint_of
from promptfleet.errors import DataError
from promptfleet.federation.checkpoint import load_snapshot, save_snapshot
from promptfleet.federation.reports import FederationResult, FederationSummary, summary_from_json
from promptfleet.federation.rounds import Federation

RESULT_FILE = "result.json"


def save_federation(folder: Path, federation: Federation) -> None:
    """Write checkpoint and result of the rounds so far, each in one step."""
    snapshot = federation.snapshot()
    save_snapshot(folder, snapshot, federation.config.fingerprint())
    with replacing(folder / RESULT_FILE) as partial:
        partial.write_text(federation.result(snapshot).to_json())


def load_summary(folder: Path, fingerprint: str) -> FederationSummary | None:
    """What the rounds so far gave, None if no round was finished; reads no states, hence cheap.

    Raises:
        DataError: if the file is damaged, or of a federation with another configuration.
    """
    path = folder / RESULT_FILE
    try:
        summary = summary_from_json(path.read_text())
        found = fingerprint_of(summary.config)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    if found != fingerprint:
        raise DataError(f"{path}: the result of a federation with another configuration")
    return summary


def load_result(folder: Path, fingerprint: str) -> FederationResult | None:
    """The same with the states, from the checkpoint. Raises DataError if either file is damaged or of another one."""
    summary, snapshot = load_summary(folder, fingerprint), load_snapshot(folder, fingerprint)
    return FederationResult.of(summary, snapshot.server, snapshot.privates) if summary and snapshot else None
