"""Output of a finished sweep."""

from pathlib import Path

from promptfleet.search.finalists import Finalist
from promptfleet.search.spec import parse_sweep
from promptfleet.search.summary import describe_outcome
from promptfleet.search.sweep import SweepOutcome
from promptfleet.trial_records import TrialRecord
from tests.tracking.values import make_result

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


def best_lines(ranking=(), **settings):
    """Return what is printed of the best trial, whose mean is 0.9 and whose first seed has the made-up 0.6."""
    spec = parse_sweep({"space": {"prompt_lr": {"float": [0.01, 0.1]}}, **settings}, source="test")
    record = TrialRecord(0, "complete", {"prompt_lr": 0.05}, 0.9, 3, 0.8, 1.0)
    outcome = SweepOutcome([record], record, make_result(), False, "mlflow ui", None, finalists=ranking)
    return describe_outcome(spec, Path("sweeps/x"), outcome)


def test_the_best_trial_of_several_seeds_has_their_means():
    one, three = best_lines(), best_lines(seeds_per_trial=3)
    assert "validation accuracy 0.600, chosen by it\n" in one
    assert (
        "validation accuracy 0.900, chosen by it\n  test accuracy       0.800, mean over 3 clients and 3 seeds" in three
    )


def test_finalists_are_a_table_that_names_the_winner_and_what_is_noise():
    second, third = Finalist(4, 0.9, 0.02, 0.79, 0.01, 0.3), Finalist(2, 0.8, 0.1, 0.7, 0.11, 0.001)
    finalists = [Finalist(0, 0.91, 0.02, 0.8), second, third]
    text = best_lines(finalists, finalists={"trials": 3, "seeds": [7, 8]})
    assert "validation accuracy 0.600, winner of the finalists" in text
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line][-3:]
    assert [(row[0], row[-1]) for row in rows] == [("0", "winner"), ("4", "noise"), ("2", "worse")]
    assert rows[1][1:6] == ["0.900", "± 0.020", "0.790", "0.010", "0.3"]


def test_the_commands_that_go_on_from_here_are_said():
    text = best_lines(federation={"method": "coop"})
    assert "trials as a table: sweeps/x/trials.csv\n" in text
    assert "train the best one: python jobs/train.py --config sweeps/x/best.yaml\n" in text
    assert "python jobs/compare.py --config sweeps/x/best.yaml --methods coop,promptfl --seeds 0,1,2" in text
