"""Reactions to a client that fails, in this process; the same with processes that die is in test_faults."""

import json

import pytest
import torch

from promptfleet.config import RuntimeConfig
from promptfleet.errors import FederationError, MethodError
from promptfleet.federation.failures import CodeFails, Failure, Failures
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.reports import Event, nothing_accepted
from promptfleet.federation.rounds import Federation
from tests.faulty import order


@pytest.fixture
def run(small_config, prepared, tmp_path):
    """Run a federation of three rounds, all three clients in each, with the faults that were ordered."""

    def run(**runtime):
        faulty = {"method": "tests.faulty:Faulty", "faults_folder": str(tmp_path), "participation": 1.0}
        config = small_config(**faulty, rounds=3, runtime={"backend": "local", **runtime})
        federation = Federation(config, prepared, LocalFleet(prepared))
        while federation.rounds_done < config.rounds:
            federation.run_round()
        return federation.result()

    return run


def test_a_client_that_raises_is_tried_again_and_nothing_else_changes(run, tmp_path):
    undisturbed = run()
    assert [report.events for report in undisturbed.rounds] == [[], [], []]
    order(tmp_path, "train", 2, "raise", client=1, times=2)
    order(tmp_path, "evaluate", 3, "raise", client=2)
    result = run()
    assert result.state_sha256 == undisturbed.state_sha256
    assert result.clients == undisturbed.clients
    what = "raised ValueError: a fault was ordered"
    assert [report.events for report in result.rounds] == [
        [],
        [
            Event("train", [0, 1, 2], what, "done again one by one"),
            Event("train", [1], what, "done again"),
        ],
        [Event("evaluate", [0, 1, 2], what, "done again one by one")],
    ]


def test_a_dropped_client_keeps_its_state_and_is_told_apart(run, tmp_path):
    undisturbed = run()
    order(tmp_path, "train", 2, "raise", client=1, times=2)
    result = run(on_client_failure="drop")
    assert result.state_sha256 != undisturbed.state_sha256
    assert [dict(report.dropped) for report in result.rounds] == [{}, {1: "raised ValueError: a fault was ordered"}, {}]
    assert result.rounds[1].cohort == [0, 1, 2]
    assert result.rounds[1].events[-1].action == "dropped"
    assert len(result.rounds[1].client_test_accuracy) == 3
    assert [int(result.privates[client]["round"]) for client in range(3)] == [3, 3, 3]


def test_evaluation_is_tried_again_also_where_updates_are_dropped(run, tmp_path):
    order(tmp_path, "evaluate", 1, "raise", client=1, times=2)
    undisturbed = run()
    assert run(on_client_failure="drop").clients == undisturbed.clients


@pytest.mark.parametrize(
    ("runtime", "times", "message"),
    [
        ({"on_client_failure": "fail"}, 2, r"client 1: raised ValueError: .* \(runtime\.on_client_failure=fail\)"),
        ({"retries": 2}, 3, r"client 1: raised ValueError: .* \(faulty\.py:\d+\), 2 times in a row"),
        ({"retries": 0}, 2, r"client 1: raised ValueError: .*, 1 times in a row \(runtime\.retries=0\)"),
    ],
)
def test_it_stops_where_it_is_told_to(run, tmp_path, runtime, times, message, caplog):
    order(tmp_path, "train", 2, "raise", client=1, times=times)
    with pytest.raises(FederationError, match=f"^train: {message}$"):
        run(**runtime)
    assert "in local_update" in caplog.text  # whose code it was


def test_too_few_left_is_an_error(run, tmp_path):
    for client in (0, 1):
        order(tmp_path, "train", 2, "raise", client=client, times=2)
    with pytest.raises(FederationError, match=r"^round 2: 1 updates of 3, runtime\.min_clients=2 \(client 0 raised"):
        run(on_client_failure="drop", min_clients=2)


@pytest.mark.parametrize("fault", ["nan", "inf", "shape", "dtype", "huge"])
def test_a_bad_update_stays_out_of_the_state_and_is_named(run, tmp_path, fault):
    order(tmp_path, "train", 2, fault, client=1)
    result = run()
    assert list(result.rounds[1].rejected) == [1]
    assert result.rounds[0].rejected == result.rounds[2].rejected == {}
    order(tmp_path, "train", 2, "raise", client=1, times=2)
    dropped = run(on_client_failure="drop")
    assert dropped.state_sha256 == result.state_sha256
    assert dropped.rounds[1].client_test_accuracy == result.rounds[1].client_test_accuracy


def test_it_is_said_once_that_every_update_was_rejected_and_json_stays_valid(run, tmp_path, caplog):
    for client in range(3):
        order(tmp_path, "train", 1, "nan", client=client, times=3)  # the server's state stays that of round 1
    result = run()
    assert [list(report.rejected) for report in result.rounds] == [[0, 1, 2]] * 3
    reason = "no update was accepted in 3 rounds, the last time since client 0's context is not finite after the local"
    assert [message for message in caplog.messages if message.startswith(reason)] == [
        nothing_accepted(result.rounds, 3)
    ]
    assert repr(result).startswith("FederationResult(tests.faulty:Faulty on digits, seed=0, clients=3, rounds=3, test_")
    json.loads(result.to_json(), parse_constant=pytest.fail)


RAY = RuntimeConfig(retries=3, backend="ray")
TRACE = 'Traceback (most recent call last):\n  File "/me/mine.py", line {}, in local_update\n    x\n'


def raised(error, line=1):
    return Failure.of(error, TRACE.format(line))


@pytest.mark.parametrize("client", [0, 1])
def test_the_same_error_from_the_same_line_is_not_tried_a_third_time_whoever_raises_it(client, caplog):
    failures = Failures(RAY)
    assert failures.do_again("train", 0, raised(ValueError("x")), 0, may_drop=False)
    how_often = "2 times in a row" if client == 0 else "as another client's work did"
    wanted = rf"^train: client {client}: raised ValueError: x \(mine\.py:1\), {how_often}; to debug it .*backend=local$"
    with pytest.raises(CodeFails, match=wanted):
        failures.do_again("train", client, raised(ValueError("x")), 1 - client, may_drop=False)
    assert 'File "/me/mine.py", line 1, in local_update' in caplog.text


@pytest.mark.parametrize(
    "other",
    [raised(ValueError("y")), raised(ValueError("x"), line=2), raised(TypeError("x")), Failure("its process died")],
)
def test_another_error_or_place_is_tried_as_often_as_is_set(other):
    failures = Failures(RAY)
    assert failures.do_again("train", 0, raised(ValueError("x")), 0, may_drop=False)
    assert failures.do_again("train", 0, other, 1, may_drop=False)
    assert failures.do_again("evaluate", 1, raised(ValueError("x")), 0, may_drop=False)
    failures.take()
    assert failures.do_again("train", 1, raised(ValueError("x")), 0, may_drop=False), "a round later"


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError(), torch.OutOfMemoryError("CUDA")])
def test_what_a_machine_lacks_for_a_moment_is_tried_as_often_as_is_set(error):
    failures = Failures(RAY)
    for attempt in range(3):
        assert failures.do_again("train", 0, raised(error), attempt, may_drop=False)
    with pytest.raises(CodeFails, match=r"4 times in a row \(runtime\.retries=3\)"):
        failures.do_again("train", 0, raised(error), 3, may_drop=False)


def test_what_is_told_in_words_needs_no_traceback(caplog):
    failures, failure = Failures(RAY), raised(MethodError("method mine: local_update returned None"))
    assert failures.do_again("train", 0, failure, 0, may_drop=False)
    with pytest.raises(
        CodeFails, match=r"^train: client 0: raised MethodError: method mine: .* None, 2 times in a row$"
    ):
        failures.do_again("train", 0, failure, 1, may_drop=False)
    assert "mine.py" not in caplog.text
