"""Table of a sweep's trials for pandas, which is imported at the first call."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from promptfleet.atomic_files import replacing
from promptfleet.disks import disk_errors
from promptfleet.tracking.sweep_run import trial_row
from promptfleet.trial_records import TrialRecord

if TYPE_CHECKING:
    from pandas import DataFrame


Format = Literal["csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)


def trials_frame(records: Sequence[TrialRecord]) -> "DataFrame":
    """Return one row per trial ``number``: state, value, hyperparameters, rounds, test accuracy and seconds.

    Accuracies are in 0..1. A value that a trial does not have is missing.
    """
    from pandas import DataFrame

    rows = [trial_row(record) for record in records]
    columns = ["number", "state", "value", *dict.fromkeys(key for row in rows for key in row)]
    return DataFrame(rows, columns=list(dict.fromkeys(columns))).set_index("number")


def export_trials(frame: "DataFrame", path: Path, kind: Format) -> None:
    """Write the table to ``path``; JSON has a list of records. Raises StorageError."""
    with disk_errors(), replacing(path) as partial:
        if kind == "parquet":
            frame.to_parquet(partial)
        elif kind == "json":
            frame.reset_index().to_json(partial, orient="records", indent=1)
        else:
            frame.to_csv(partial)
