"""Columns of a comparison's tables: numbers of a method, by the names that ``--columns`` and the CSV file have."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from promptfleet.comparison.judgements import Judgement, Target
from promptfleet.comparison.over_seeds import OverSeeds
from promptfleet.comparison.scores import MethodScore
from promptfleet.comparison.significance import Difference
from promptfleet.errors import ConfigError, did_you_mean
from promptfleet.federation.evaluation.scores import BASE, NEW, TEST, names_of_sets, set_name

NOISE_P = 0.05  # from here on a difference may be noise
_KB = 1024


@dataclass(frozen=True)
class MethodFigures:
    """Numbers of one method. ``difference`` to the best method is None for the best one.

    ``set_differences`` are those to the best one of each evaluation set, where they can be tested.
    """

    score: MethodScore
    judgement: Judgement
    difference: Difference | None
    set_differences: Mapping[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """Column ``name``, whose ``number`` of a method is shown by ``show``, and as ``missing`` if there is none.

    ``legend`` defines it. ``mark`` gives a sign that follows the number.
    """

    name: str
    header: str
    legend: str
    number: Callable[[MethodFigures], OverSeeds | float | None]
    show: Callable[[OverSeeds | float], str]
    missing: str = "-"
    mark: Callable[[MethodFigures], str] = lambda figures: ""
    is_set: bool = False

    @property
    def is_compared(self) -> bool:
        """Claim that methods are compared by the column: its best number is in bold."""
        return self.is_set or self.name == "test_accuracy"

    def cell(self, figures: MethodFigures) -> str:
        """Return the text of the method's cell."""
        number = self.number(figures)
        return self.missing if number is None else self.show(number) + self.mark(figures)


def percent(number: OverSeeds | float) -> str:
    """Return a fraction as ``97.2 ± 0.4``; for one seed without the deviation."""
    over = number if isinstance(number, OverSeeds) else OverSeeds.of([number])
    text = f"{100 * over.mean:.1f}"
    return f"{text} ± {100 * over.std:.1f}" if len(over.values) > 1 else text


def _mean(digits: int) -> Callable[[OverSeeds | float], str]:
    return lambda number: f"{number.mean if isinstance(number, OverSeeds) else number:,.{digits}f}"


def _kilobytes(number: OverSeeds | float) -> str:
    return f"{number:.1f}" if number else "0"


def _p_value(number: OverSeeds | float) -> str:
    return "< 0.001" if number < 0.001 else f"{number:.3f}"


def _of_difference(number: Callable[[Difference], OverSeeds | float]) -> Callable[[MethodFigures], object]:
    return lambda one: None if one.difference is None else number(one.difference)


def _to_target(number: Callable[[Target], OverSeeds]) -> Callable[[MethodFigures], OverSeeds | None]:
    return lambda one: None if one.judgement.target is None else number(one.judgement.target)


MAIN = (
    Column(
        *("test_accuracy", "test accuracy", "mean over clients on their own test parts after the last round"),
        *(lambda one: one.score.test_accuracy, percent),
    ),
    Column(
        *("behind_best", "behind best", "distance to the best test accuracy"),
        *(_of_difference(lambda one: one.gap), percent, ""),
    ),
    Column(
        *("p", "p"),
        "Wilcoxon's signed-rank test against the best method, paired over seeds and clients, after Holm's correction; "
        "clients of one seed are not independent, so it is rather too small",
        *(_of_difference(lambda one: one.p_adjusted), _p_value, ""),
    ),
    Column(
        *("best_round", "at best val. round", "the same in the round of the best validation accuracy"),
        *(lambda one: one.score.best_round_test_accuracy, percent),
    ),
    Column(
        "worst_client",
        "worst client",
        "the lowest of these",
        lambda one: one.score.worst_client,
        percent,
    ),
    Column("spread", "spread", "their standard deviation", lambda one: one.score.client_std, percent),
    Column(
        *("up_kb", "up KB", "uploads of a round, all its clients together"),
        *(lambda one: one.score.uploaded_bytes / _KB, _kilobytes),
    ),
    Column("down_kb", "down KB", "downloads", lambda one: one.score.downloaded_bytes / _KB, _kilobytes),
    Column(
        *("trained", "trained", "parameters that one client trains"),
        *(lambda one: one.score.trained_parameters, _mean(0)),
    ),
    Column("seconds", "s", "seconds of one federation", lambda one: one.score.seconds, _mean(1)),
)

FURTHER = (
    Column(
        *("bottom_decile", "bottom decile", "on own test parts; of fewer than ten clients the minimum"),
        *(lambda one: one.judgement.bottom_decile, percent),
    ),
    Column(
        *("weighted", "weighted", "mean on own test parts, weighted by samples"),
        *(lambda one: one.judgement.weighted_mean, percent),
    ),
    Column(
        *("below_zero_shot", "below zero-shot", "share of the clients below untrained CLIP"),
        *(lambda one: one.judgement.below_zero_shot, percent),
    ),
    Column(
        *("below_coop", "below CoOp", "share of the clients below their own CoOp, if coop is compared"),
        *(lambda one: one.judgement.below_coop, percent),
    ),
    Column(
        *("ece", "ECE", "gap of confidence and accuracy on own test parts, weighted"),
        *(lambda one: one.judgement.calibration.get("ece"), percent),
    ),
    Column(*("mce", "MCE", "largest gap"), lambda one: one.judgement.calibration.get("mce"), percent),
    Column(
        *("ace", "ACE", "as ECE, in bins of equal counts"), lambda one: one.judgement.calibration.get("ace"), percent
    ),
    Column(
        *("rounds_to_target", "rounds to target", "until the mean validation accuracy has reached the target"),
        *(_to_target(lambda one: one.rounds), _mean(1), "not reached"),
    ),
    Column(
        *("kb_to_target", "KB to target", "up and down, all rounds"),
        *(_to_target(lambda one: one.kilobytes), _mean(0)),
    ),
    Column("seconds_to_target", "s to target", "the same in seconds", _to_target(lambda one: one.seconds), _mean(1)),
    Column(
        *("area", "area", "under the curve of the mean validation accuracy over rounds"),
        *(lambda one: one.judgement.area, percent),
    ),
)
OF_CLASSES = tuple(
    Column(
        *(f"{error}_{name}", f"{error.upper()} {name}", f"{error.upper()} of all clients' predictions on {name}"),
        *(lambda one, key=f"{error}_{name}": one.judgement.calibration.get(key), percent),
    )
    for name in (BASE, NEW)
    for error in ("ece", "mce")
)  # of federations with new classes
_FIXED = {column.name: column for column in (*MAIN, *FURTHER, *OF_CLASSES)}


def further_columns(ranked: Sequence[MethodFigures]) -> list[Column]:
    """Return the further columns; those of base and new classes only if a method has their numbers."""
    there = [column for column in OF_CLASSES if any(column.number(one) is not None for one in ranked)]
    return [*FURTHER, *there]


def set_columns(names: Iterable[str]) -> list[Column]:
    """Return a column for each evaluation set, by names such as ``test/global``."""
    return [_set_column(name) for name in names]


def _set_column(whole: str) -> Column:
    name = whole.removeprefix(set_name(TEST, ""))
    return Column(
        name,
        name.replace("_", " "),
        "",
        lambda one: one.judgement.sets.get(whole),
        percent,
        mark=lambda one: " ≈" if _may_be_noise(one.set_differences.get(whole)) else "",
        is_set=True,
    )


def _may_be_noise(difference: Difference | None) -> bool:
    return difference is not None and difference.p_adjusted >= NOISE_P


def parse_columns(text: str | None, others: Iterable[str] = ()) -> tuple[str, ...]:
    """Parse ``test_accuracy,global,p``, columns of the tables and evaluation sets; without a text there are none.

    others: datasets of ``evaluation.transfer``. Raises ConfigError: none, a duplicate, or one that does not exist.
    """
    if text is None:
        return ()
    names = tuple(word.strip() for word in text.split(",") if word.strip())
    known = [*_FIXED, *names_of_sets(others)]
    if not names:
        raise ConfigError(f"--columns: name at least one; there are: {', '.join(known)}")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--columns: {name} is a duplicate")
        if name not in known:
            hint = did_you_mean(name, known) or f"there are: {', '.join(known)}"
            raise ConfigError(f"--columns: unknown column {name!r}; {hint}")
    return names


def columns_of(names: Sequence[str]) -> list[Column]:
    """Return the columns of these names; one that is not of the tables is that of an evaluation set."""
    return [_FIXED.get(name) or _set_column(set_name(TEST, name)) for name in names]
