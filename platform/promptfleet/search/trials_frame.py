"""Table of a sweep's trials for pandas, which is imported at the first call."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from promptfleet.tracking.sweep_run import trial_row
from promptfleet.trial_records import TrialRecord

if TYPE_CHECKING:
    from pandas import DataFrame


def trials_frame(records: Sequence[TrialRecord]) -> "DataFrame":
    """Return one row per trial ``number``: state, value, hyperparameters, rounds, test accuracy and seconds.

    Accuracies are in 0..1. A value that a trial does not have is missing.
    """
    from pandas import DataFrame

    rows = [trial_row(record) for record in records]
    columns = ["number", "state", "value", *dict.fromkeys(key for row in rows for key in row)]
    return DataFrame(rows, columns=list(dict.fromkeys(columns))).set_index("number")
