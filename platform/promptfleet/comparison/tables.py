"""Table of a comparison as text, as Markdown and as LaTeX. Accuracies are in per cent, as papers print them."""

from collections.abc import Sequence

from promptfleet.comparison.over_seeds import OverSeeds
from promptfleet.comparison.scores import MethodScore
from promptfleet.comparison.significance import Difference
from promptfleet.escaping import latex, markdown

HEADERS = (
    "method",
    "test accuracy",
    "at best val. round",
    "worst client",
    "spread",
    "up KB",
    "down KB",
    "trained",
    "s",
    "behind best",
    "p",
)
LEGEND = (
    "Accuracies in %, mean ± sample standard deviation over seeds. Test accuracy: mean over clients of the accuracy on "
    "their own test parts after the last round, next to it in the round of the best validation accuracy; worst client: "
    "the lowest of them; spread: their standard deviation. KB of a round, all its clients together; trained: "
    "parameters that one client trains; s: seconds of one federation. p: Wilcoxon's signed-rank test against the best "
    "method, paired over seeds and clients, after Holm's correction; clients of one seed are not independent, so it is "
    "rather too small."
)


def table_rows(scores: Sequence[MethodScore], differences: Sequence[Difference]) -> list[list[str]]:
    """Return a row of cells under ``HEADERS`` per method, the highest test accuracy first."""
    by_method = {difference.method: difference for difference in differences}
    ranked = sorted(scores, key=lambda score: -score.test_accuracy.mean)
    return [_row(score, by_method.get(score.method)) for score in ranked]


def markdown_table(rows: Sequence[Sequence[str]], headers: Sequence[str] = HEADERS, *, bold: int = 2) -> str:
    """Return a table with the legend's columns; ``bold`` cells of the first row, which is the best, in bold."""
    best, *others = ([markdown(cell) for cell in row] for row in rows)
    marked = [[f"**{cell}**" if cell and index < bold else cell for index, cell in enumerate(best)], *others]
    lines = [headers, ["---"] + ["---:"] * (len(headers) - 1), *marked]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def latex_table(rows: Sequence[Sequence[str]], headers: Sequence[str] = HEADERS, *, bold: int = 2) -> str:
    """Return a ``tabular`` with booktabs' rules; ``bold`` cells of the best method in bold."""
    best, *others = rows
    marked = [[rf"\textbf{{{latex(cell)}}}" if index < bold else latex(cell) for index, cell in enumerate(best)]]
    body = [*marked, *([latex(cell) for cell in row] for row in others)]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            rf"\begin{{tabular}}{{l{'r' * (len(headers) - 1)}}}",
            r"\toprule",
            f"{' & '.join(latex(header) for header in headers)} \\\\",
            r"\midrule",
            *(f"{' & '.join(row)} \\\\" for row in body),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def percent(figure: OverSeeds) -> str:
    """Return ``97.2 ± 0.4``; for one seed without the deviation."""
    text = f"{100 * figure.mean:.1f}"
    return f"{text} ± {100 * figure.std:.1f}" if len(figure.values) > 1 else text


def _row(score: MethodScore, difference: Difference | None) -> list[str]:
    return [
        score.method,
        percent(score.test_accuracy),
        percent(score.best_round_test_accuracy),
        percent(score.worst_client),
        percent(score.client_std),
        _kilobytes(score.uploaded_bytes),
        _kilobytes(score.downloaded_bytes),
        f"{score.trained_parameters:,}",
        f"{score.seconds.mean:.1f}",
        "" if difference is None else percent(difference.gap),
        "" if difference is None else _p_value(difference.p_adjusted),
    ]


def _kilobytes(size: float) -> str:
    return f"{size / 1024:.1f}" if size else "0"


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
