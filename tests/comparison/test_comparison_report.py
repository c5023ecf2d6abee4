"""Scores, tables, files and published figures of a comparison."""

import csv
import json

import pytest

from promptfleet.comparison.columns import parse_columns
from promptfleet.comparison.failures import Failure
from promptfleet.comparison.reference import reference_rows, references_for
from promptfleet.comparison.report import Shown, make_report
from promptfleet.comparison.scores import score_methods
from promptfleet.config import flatten, merge, nest
from promptfleet.errors import ConfigError
from promptfleet.federation.settings import read_federation_config
from promptfleet.methods import METHODS
from promptfleet.yaml_files import read_yaml
from tests.comparison.values import make_summary

RESULTS = {
    ("coop_x", 0): make_summary([0.5, 0.6, 0.7]),
    ("coop_x", 1): make_summary([0.6, 0.7, 0.8], seed=1),
    ("pfedmoap", 0): make_summary([0.8, 0.9, 1.0]),
    ("pfedmoap", 1): make_summary([0.8, 0.8, 0.8], seed=1),
}

FAILED = [Failure("coop_x", 2, "why"), Failure("fedjets", None, 'no images, "none"')]


@pytest.fixture(scope="module")
def report():
    return make_report(RESULTS, tuned={"pfedmoap": {"lambda": 0.5}}, failed=FAILED)


def test_scores_are_over_clients_first_and_seeds_then():
    low, high = score_methods(RESULTS)
    assert (low.method, low.seeds) == ("coop_x", [0, 1])
    assert (low.test_accuracy.mean, low.test_accuracy.std) == pytest.approx((0.65, 0.1 / 2**0.5))
    assert low.worst_client.values == pytest.approx([0.5, 0.6])
    assert high.client_std.values == pytest.approx([(2 / 3) ** 0.5 / 10, 0])
    # two clients train in each of three rounds; each sends 10 bytes and receives 100
    assert (low.uploaded_bytes, low.downloaded_bytes) == (20, 200), "of a round, as in train.py, MLflow and result.json"
    assert low.trained_parameters == 6
    assert len(low.accuracy_by_round) == 3


def as_rows(table):
    return [dict(zip(table.headers, row, strict=True)) for row in table.rows]


def test_the_best_method_comes_first_in_bold_and_one_without_a_result_last(report):
    first, second, last = as_rows(report.tables[0])
    assert first["test accuracy"] == "85.0 ± 7.1"
    assert second["behind best"] == "20.0 ± 14.1"
    assert set(last.values()) == {"fedjets", "-"}
    files = report.files()
    assert "| **pfedmoap** | **85.0 ± 7.1** |" in files["comparison.md"]
    assert r"\textbf{pfedmoap} & \textbf{85.0 $\pm$ 7.1} &" in files["comparison.tex"]
    assert r"coop\_x & 65.0 $\pm$ 7.1 &" in files["comparison.tex"]
    for text in ("Failed: coop_x with seed 2: why", 'Cannot run: fedjets: no images, "none"'):
        assert text in files["comparison.md"]


def test_a_wide_table_becomes_several_that_begin_with_the_methods(report):
    files = report.files()
    assert max(map(len, files["comparison.md"].splitlines())) <= 120
    rows = [line for line in files["comparison.md"].splitlines() if line.startswith("| **pfedmoap**")]
    assert len(rows) > len(report.tables)
    cells = [cell.strip() for row in rows for cell in row.split("|")[2:-1]]
    assert len(cells) == sum(len(table.headers) - 1 for table in report.tables), "each column once"
    tabulars = files["comparison.tex"].split(r"\begin{tabular}")[1:]
    for text in tabulars:
        counts = {row.count(" & ") for row in text.splitlines() if row.endswith(r"\\")}
        assert counts == {text.index("}") - 2}, "as many cells as columns"


def test_the_csv_has_each_column_with_its_deviation_and_why_a_method_failed(report):
    high, low, missing = csv.DictReader(report.files()["comparison.csv"].splitlines())
    assert (high["method"], float(high["test_accuracy"])) == ("pfedmoap", pytest.approx(0.85))
    assert float(high["test_accuracy_std"]) == pytest.approx(0.1 / 2**0.5)
    assert (float(low["behind_best"]), high["behind_best"]) == (pytest.approx(0.2), "")
    assert float(low["down_kb"]) == 200 / 1024
    assert (low["failed"], high["failed"]) == ("coop_x with seed 2: why", "")
    assert (missing["local"], missing["failed"]) == ("", 'fedjets: no images, "none"')


def test_chosen_columns_are_one_table_in_their_order():
    shown = Shown(columns=parse_columns("p,global,test_accuracy"))
    report = make_report(RESULTS, tuned={}, failed=[], shown=shown)
    (table,) = report.tables
    assert table.headers == ["method", "p", "global", "test accuracy"]
    assert table.rows[0] == ["pfedmoap", "", "-", "85.0 ± 7.1"]
    assert parse_columns("transfer/dtd", ["dtd"]) == ("transfer/dtd",)
    assert report.files()["comparison.csv"].splitlines()[0] == "method,p,global,test_accuracy,test_accuracy_std,failed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("test_acuracy", "--columns: unknown column 'test_acuracy'; did you mean 'test_accuracy'"),
        ("harmonic_base_newer", "did you mean 'harmonic_base_new'"),
        ("transfer/food101", "unknown column 'transfer/food101'"),
        ("p,p", "--columns: p is a duplicate"),
        (",", "--columns: name at least one; there are: test_accuracy, "),
    ],
)
def test_columns_that_do_not_exist(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_columns(text)


def test_the_json_has_what_every_number_is_made_of(report):
    values = json.loads(report.files()["comparison.json"])
    assert values["tuned"] == {"pfedmoap": {"lambda": 0.5}}
    assert [one["client_test_accuracy"] for one in values["federations"]][2] == [0.8, 0.9, 1.0]
    assert values["scores"][1]["test_accuracy"]["values"] == pytest.approx([0.9, 0.8])
    assert values["differences_to_best"][0]["best"] == "pfedmoap"
    assert values["federations"][0]["cohorts"] == [[0, 2]] * 3


def test_figures_have_a_line_and_a_box_for_every_method(report):
    drawn = {name: draw() for name, draw in report.figures()}
    lines, boxes = drawn["methods"], drawn["clients"]
    (axes,) = lines.axes
    assert [line.get_label() for line in axes.lines] == ["pfedmoap  0.100", "coop_x  0.100"]
    (axes,) = boxes.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["pfedmoap", "coop_x"]


def test_thirteen_methods_get_a_panel_each():
    many = {(f"method {number}", 0): make_summary([0.5, 0.6, 0.1 * number]) for number in range(8)}
    lines = make_report(many, tuned={}, failed=[]).figures()[0][1]()
    used = [axes for axes in lines.axes if axes.lines]
    assert len(used) == 8
    assert all(len(axes.lines) == 9 for axes in used)  # everyone in grey, one in blue


def test_published_figures_are_shown_where_the_setting_matches():
    (table,) = [one for one in read_yaml_tables() if one["name"] == "Table 2"]
    settings = {"dataset": "cifar10"}
    for key, value in table["settings"].items():
        settings = merge(settings, nest(key, value))
    (same,) = references_for(settings)
    assert same.differs == ()
    assert reference_rows(same, score_methods(RESULTS)) == [["pfedmoap", "85.0 ± 7.1", "83.46 ± 0.53", "+1.5"]]
    (other,) = references_for({**settings, "rounds": 10})
    assert other.differs == ("rounds=10 (there 120)",)
    assert references_for({"dataset": "digits"}) == []


def test_published_figures_are_of_settings_and_methods_that_exist():
    known = set(flatten(make_summary([0, 0, 0]).config))
    for table in read_yaml_tables():
        assert set(table["settings"]) <= known
        for accuracy in table["accuracy"].values():
            assert set(accuracy) <= set(METHODS)


def test_the_papers_presets_are_the_settings_of_its_tables(root):
    for preset in (root / "configs" / "paper").glob("*.yaml"):
        config = read_federation_config(preset)
        assert [reference.differs for reference in references_for(config.to_dict())] == [()], preset.name


def read_yaml_tables():
    from promptfleet.comparison import reference

    return read_yaml(reference.__file__.replace("reference.py", "paper.yaml"))["tables"]
