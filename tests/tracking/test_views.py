"""Targets of a link, as MLflow's front end reads them."""

import json

import pytest

from promptfleet.tracking.sweep_run import SweepRun
from promptfleet.tracking.views import View, all_runs_view, comparison_view, federations_view, metric, trials_view
from tests.tracking.values import make_config

PARENT = "0" * 32


def state(view):
    return json.loads(view.to_json())


def test_a_sweeps_view_is_sorted_and_has_accuracies_and_the_searched_keys():
    shown = state(trials_view("sweep-a", PARENT, ["experts", "partition.alpha"]))
    assert (shown["orderByKey"], shown["orderByAsc"]) == ("metrics.`final/objective`", False)
    assert shown["searchFilter"] == f"tags.`mlflow.parentRunId` = '{PARENT}'"
    assert shown["selectedColumns"] == [
        "metrics.`final/objective`",
        "metrics.`final/val_accuracy`",
        "metrics.`final/test_accuracy`",
        "params.`experts`",
        "params.`partition.alpha`",
        "tags.`promptfleet.state`",
    ]
    assert shown["columnOrder"][2:] == shown["selectedColumns"]
    assert set(shown["columnWidths"]) == set(shown["columnOrder"])
    facets = ("startTime", "lifecycleFilter", "datasetsFilter", "modelVersionFilter")
    assert [shown[name] for name in facets] == ["ALL", "Active", [], "All Runs"]


def test_charts_begin_with_accuracies_and_the_other_sections_are_folded():
    shown = state(trials_view("sweep-a", PARENT, ["experts", "prompt_lr"]))
    kinds = [(chart["type"], chart.get("metricKey")) for chart in shown["compareRunCharts"]]
    assert kinds == [
        ("LINE", "val/accuracy_mean"),
        ("LINE", "test/accuracy_mean"),
        ("BAR", "final/objective"),
        ("BAR", "final/test_accuracy"),
        ("PARALLEL", None),
    ]
    assert shown["compareRunCharts"][-1]["selectedParams"] == ["experts", "prompt_lr"]
    assert shown["compareRunCharts"][-1]["selectedMetrics"] == ["final/objective"]
    first, *others = shown["compareRunSections"]
    assert {chart["metricSectionId"] for chart in shown["compareRunCharts"]} == {first["uuid"]}
    assert first["display"]
    assert not any(section["display"] for section in others)


def test_one_key_has_no_parallel_coordinates():
    charts = state(trials_view("sweep-a", PARENT, ["experts"]))["compareRunCharts"]
    assert "PARALLEL" not in {chart["type"] for chart in charts}


@pytest.mark.parametrize(
    ("view", "order", "column"),
    [
        (comparison_view("comparison-a", PARENT), "metrics.`final/test_accuracy`", "params.`method`"),
        (federations_view(["rounds"]), "metrics.`final/test_accuracy`", "params.`rounds`"),
        (all_runs_view(), "attributes.start_time", "metrics.`best/test_accuracy`"),
    ],
)
def test_other_views(view, order, column):
    shown = state(view)
    assert shown["orderByKey"] == order
    assert {column, "metrics.`final/test_accuracy`", "metrics.`final/val_accuracy`"} <= set(shown["selectedColumns"])


def test_a_view_of_too_many_columns_is_cut_to_what_mlflow_takes():
    view = View("all", order_by=metric("a"), columns=[metric(f"{number:0100}") for number in range(500)])
    assert 19_000 < len(view.to_json(saved=1.5)) <= 20_000
    assert json.loads(view.to_json(saved=1.5))["promptfleet.saved"] == 1.5


def test_a_sweep_saves_its_view_with_the_run_that_it_is(own_store):
    sweep = SweepRun.start(
        own_store, make_config(), key="sweep/odd name", name="odd", search={"space": {"experts": {}}}
    )
    tags = own_store._client.get_experiment_by_name("promptfleet").tags
    assert sweep.view == "sweep-odd name"
    assert sweep.id in json.loads(tags[f"mlflow.sharedViewState.{sweep.view}"])["searchFilter"]
    assert "viewStateShareKey=sweep-odd%20name" in own_store.ui_address(sweep.view)
