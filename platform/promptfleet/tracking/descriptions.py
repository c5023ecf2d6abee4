"""Texts in Markdown for the field "Description" of runs in MLflow."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from promptfleet.escaping import markdown, markdown_code
from promptfleet.federation.reports import FederationSummary
from promptfleet.trial_records import name_ties
from promptfleet.yaml_files import as_yaml

NOTE_TAG = "mlflow.note.content"
EXPERIMENT_NOTE = (
    "Searches over whole prompt federations (`sweep ...`, with its trials nested in it) and single federations; "
    "accuracies are fractions, means over clients."
)
_MOST_VALUES = 12  # of a choice that are listed
_HEADING = ("", "Where to look (Artifacts):")
_STATES = {"pruned": "stopped early (pruned)"}
_FIGURES = {
    "accuracy": "accuracy by round: mean, every client, zero-shot CLIP",
    "partition": "number of samples of each class, part and domain per client",
    "local_global": "accuracy of each client's model on its own and on all test parts",
    "reliability": "accuracy by confidence, on the clients' own test parts",
    "experts": "experts of each client after the last round, by client id",
    "gate": "gate weights of the local and the non-local experts",
    "history": "objective by trial, and the best so far",
    "importances": "share of the objective's variance that each hyperparameter explains, and its uncertainty",
    "parallel": "a line per trial through its hyperparameters to its objective",
    "contour": "the objective over the two most important hyperparameters",
    "pareto": "the trials of several objectives, and those that no other one beats in each",
    "timeline": "when each trial ran",
    "grid": "test accuracy over the grid's first key, mean and spread over seeds",
    "slices": "objective against each hyperparameter, with its standard error over clients",
}


def federation_note(result: FederationSummary, figures: Collection[str], caveat: str = "") -> str:
    """Describe a federation that ran all its rounds: its accuracy next to zero-shot's; figures are the drawn ones."""
    return "\n".join(
        [
            *([f"**{caveat}.**", ""] if caveat else []),
            f"**Test accuracy {result.test_accuracy:.3f}**{_against(result.zero_shot_accuracy, result.test_accuracy)} "
            f"on the same {len(result.seen_clients)} clients; validation accuracy "
            f"{result.val_accuracy:.3f} after {len(result.rounds)} rounds, best in round {result.best_round}.",
            *_figure_lines(figures),
        ]
    )


def stopped_note(done: int, rounds: int, val_accuracy: float | None, figures: Collection[str]) -> str:
    """Describe a pruned trial: ``done`` of its ``rounds`` were run."""
    value = "" if val_accuracy is None else f" at validation accuracy {val_accuracy:.3f}"
    return "\n".join(
        [
            f"**Stopped early** after round {done} of {rounds}{value}: other trials were better by then, so its "
            "time went to them.",
            *_figure_lines(figures),
        ]
    )


def failed_note(done: int, rounds: int, reason: str | None, figures: Collection[str]) -> str:
    """Describe a federation that raised ``reason``."""
    why = f": {markdown_code(reason)}" if reason else ""
    return "\n".join([f"**Failed** after {done} of {rounds} rounds{why}", *_figure_lines(figures)])


def sweep_note(
    *,
    space: Mapping[str, Mapping[str, Any]],
    counts: Mapping[str, int],
    best: str | None,
    ties: Sequence[int],
    val_accuracy: float | None,
    test_accuracy: float | None,
    zero_shot: float | None,
    figures: Collection[str],
) -> str:
    """Describe the current state of a sweep; the most important first, because MLflow folds away later lines.

    best names the best trial, ties are the numbers of those that are as good; val_accuracy and test_accuracy are the
    best one's, zero_shot is for its clients. space has one entry per hyperparameter, as in a search file; counts are
    numbers of trials by state.
    """
    so_far = " so far" if counts.get("running") else ""
    lines = [f"Best{so_far}: **{markdown(best)}**" if best else "No trial has run all its rounds yet."]
    if ties:
        lines[0] += f" ({name_ties(ties)})"
    told = []
    if val_accuracy is not None:
        told.append(f"validation accuracy {val_accuracy:.3f}, chosen by it")
    if test_accuracy is not None:
        told.append(f"**test accuracy {test_accuracy:.3f}**")
        if zero_shot is not None:
            told[-1] += _against(zero_shot, test_accuracy)
    if told:
        text = "; ".join(told)
        lines += ["", f"{text[0].upper()}{text[1:]}."]
    known = [f"{count} {_STATES.get(state, state)}" for state, count in counts.items() if count]
    lines += ["", f"Trials: {', '.join(known) or 'none yet'}."]
    if space:
        lines += ["", f"Searched: {'; '.join(f'`{name}` {_values(entry)}' for name, entry in space.items())}."]
    files = ["- `trials.json`: all trials as a table", "- the runs nested in this one: each trial in detail"]
    if figures and "importances" not in figures:
        files.append("- importance of each hyperparameter: not computed, it takes five complete trials, two more than ")
        files[-1] += "hyperparameters, of which three do not tie"
    return "\n".join([*lines, *(_figure_lines(figures) or _HEADING), *files])


def _against(zero_shot: float, accuracy: float) -> str:
    """Return the difference of the displayed numbers, so that it can be checked by eye."""
    gain = round(accuracy, 3) - round(zero_shot, 3)
    return f", {gain:+.3f} against zero-shot CLIP's {zero_shot:.3f}"


def _figure_lines(figures: Collection[str]) -> Sequence[str]:
    """Return a list under a heading, empty without figures."""
    lines = [f"- `figures/{name}.png`: {text}" for name, text in _FIGURES.items() if name in figures]
    return [*_HEADING, *lines] if lines else []


def _values(entry: Mapping[str, Any]) -> str:
    """Return the values of a search space in words.

    ``{"float": [0.02, 1.0], "log": True}`` becomes ``0.02 to 1, logarithmic``.
    """
    if "choice" in entry:
        values = [markdown(as_yaml(value)) for value in entry["choice"]]
        more = f" and {len(values) - _MOST_VALUES} more" if len(values) > _MOST_VALUES else ""
        return ", ".join(values[:_MOST_VALUES]) + more
    low, high = entry["int"] if "int" in entry else entry["float"]
    return f"{low:g} to {high:g}" + (", logarithmic" if entry.get("log") else "")
