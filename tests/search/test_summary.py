"""Output of a finished sweep."""

from pathlib import Path

from promptfleet.search.spec import parse_sweep
from promptfleet.search.summary import describe_outcome
from promptfleet.search.sweep import SweepOutcome
from promptfleet.trial_records import TrialRecord

SPACE = {"adversary.fraction": {"choice": [0.0, 0.2]}, "seed": {"choice": [0, 1]}}


def table(honest):
    """The rows of a grid of two points and two seeds, of which the second point is attacked."""
    spec = parse_sweep({"sampler": "grid", "space": SPACE}, source="test")
    trials = [(0.0, 0, 0.75), (0.0, 1, 0.85), (0.2, 0, 0.5), (0.2, 1, 0.7)]
    records = [
        TrialRecord(number, "complete", {"adversary.fraction": fraction, "seed": seed}, 0.5, 3, test, 1.0, told)
        for number, ((fraction, seed, test), told) in enumerate(zip(trials, honest, strict=True))
    ]
    text = describe_outcome(spec, Path("sweeps/x"), SweepOutcome(records, None, None, False, "mlflow ui", None))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    return text, rows


def test_the_table_of_a_grid_is_over_seeds_and_tells_honest_clients_apart_where_some_attack():
    text, rows = table([None, None, 0.4, 0.6])
    assert "honest test" in text
    assert rows == [
        ["0", "2", "0.500 ± 0.000", "0.800 ± 0.071", "0.800 ± 0.071"],
        ["0.2", "2", "0.500 ± 0.000", "0.600 ± 0.141", "0.500 ± 0.141"],
    ]
    text, rows = table([None] * 4)
    assert "honest" not in text
    assert rows[1] == ["0.2", "2", "0.500 ± 0.000", "0.600 ± 0.141"]
