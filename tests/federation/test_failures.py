"""What is done about a client that fails, in this process; the same with processes that die is in test_faults."""

import json

import pytest

from promptfleet.errors import FederationError
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
        ({"retries": 2}, 4, r"client 1: raised ValueError: .*, 3 times in a row \(runtime\.retries=2\)"),
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
