"""Study of a sweep as Optuna's dashboard reads it."""

import json
from wsgiref.util import setup_testing_defaults

from optuna_dashboard import wsgi

from promptfleet.databases import sqlite_address
from promptfleet.search.quantities import RoundFigures
from promptfleet.search.space import IntRange
from promptfleet.search.spec import SweepSettings
from promptfleet.search.study import SweepStudy

QUANTITIES = {"seconds": 2.5, "bytes_up": 10, "bytes_down": 20, "bytes": 30, "worst_client": 0.25}


def answer(app, path):
    """The JSON that the dashboard's page gets from this path."""
    environment, status = {"PATH_INFO": path}, []
    setup_testing_defaults(environment)
    body = b"".join(app(environment, lambda line, headers, *_: status.append(line)))
    assert status == ["200 OK"], (path, status, body)
    return json.loads(body)


def test_it_shows_name_objectives_and_figures(tmp_path):
    settings = SweepSettings(trials=2, objectives={"val/local": "max", "bytes_up": "min"})
    study = SweepStudy(tmp_path, {"experts": IntRange(1, 9)}, settings, 2, name="gating")
    for _ in range(2):
        number = study.next_proposal().number
        study.report(number, 2, 0.5, RoundFigures(QUANTITIES, [], 0.75))
        study.note(number, RoundFigures(QUANTITIES, [], 0.75))
        study.complete(number, 0.5)
    app = wsgi(sqlite_address(study.path))
    ((listed,),) = answer(app, "/api/studies").values()
    detail = answer(app, f"/api/studies/{listed['study_id']}")
    assert listed["study_name"] == detail["name"] == "gating"
    assert detail["objective_names"] == ["val/local", "bytes_up"]
    assert detail["directions"] == ["maximize", "minimize"]
    assert [trial["values"] for trial in detail["trials"]] == [[0.5, 10], [0.5, 10]]
    shown = {one["key"]: one["value"] for one in detail["trials"][0]["user_attrs"]}
    figures = {"test_accuracy": "0.75", "seconds": "2.5", "bytes_up": "10", "bytes_down": "20", "worst_client": "0.25"}
    assert shown == {"quantities": json.dumps(QUANTITIES), **figures}
    sortable = {one["key"] for one in detail["union_user_attrs"] if one["sortable"]}
    assert sortable >= figures.keys()


def test_a_study_begun_under_another_name_keeps_it(tmp_path):
    arguments = (tmp_path, {"experts": IntRange(1, 9)}, SweepSettings(), 2)
    SweepStudy(*arguments, name="before")
    assert SweepStudy(*arguments, name="after").name == "before"
