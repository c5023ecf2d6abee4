"""Processes that die, hang or raise in the middle of a federation: its numbers are those of an undisturbed one."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from promptfleet.errors import FederationError
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.on_ray import fleet as ray_fleet
from promptfleet.federation.on_ray.fleet import RayFleet, put_frozen
from promptfleet.federation.resources import Shares
from promptfleet.federation.rounds import Federation
from tests.faulty import order

pytestmark = [pytest.mark.ray, pytest.mark.slow]
DIED, SERVER_DIED = "its process died", "the server's process died"
RESTARTED = "restarted from the last round's state, done again"


@pytest.fixture(scope="module")
def frozen(ray_session, prepared):
    return put_frozen(prepared)


@pytest.fixture(scope="module")
def fleet(frozen):
    """One process for each of three clients; each test leaves it whole."""
    shares = Shares(driver_cpu=0.1, server_cpu=0.1, client_cpu=0.1, client_gpu=0, client_actors=3)
    fleet = RayFleet(frozen, shares, start_timeout_s=240, own_group=True)
    yield fleet
    fleet.close()


@pytest.fixture
def begin(small_config, prepared, tmp_path):
    def begin(fleet, *, faults=None, **runtime):
        faulty = {"method": "tests.faulty:Faulty", "faults_folder": str(tmp_path), "participation": 1.0}
        return Federation(small_config(**faulty, rounds=3, faults=faults or {}, runtime=runtime), prepared, fleet)

    return begin


@pytest.fixture
def undisturbed(begin, prepared, tmp_path):
    assert not list(tmp_path.iterdir())
    return finish(begin(LocalFleet(prepared)))


def finish(federation):
    while federation.rounds_done < federation.config.rounds:
        federation.run_round()
    return federation.result()


def happened(result):
    return [[(e.stage, e.clients, e.what, e.action) for e in report.events] for report in result.rounds]


def assert_same(result, wanted):
    assert result.state_sha256 == wanted.state_sha256
    assert result.clients == wanted.clients
    assert [r.client_val_accuracy for r in result.rounds] == [r.client_val_accuracy for r in wanted.rounds]
    assert [r.round for r in result.rounds] == [1, 2, 3]


def test_a_client_killed_before_and_at_the_end_of_its_update_and_while_it_is_evaluated(
    fleet, begin, undisturbed, tmp_path
):
    order(tmp_path, "train", 1, "kill", client=0)
    order(tmp_path, "trained", 2, "kill", client=1)
    order(tmp_path, "evaluate", 3, "kill", client=2)
    before = {place["pid"] for place in fleet.whereabouts()}
    started = time.monotonic()
    result = finish(begin(fleet))
    seconds = time.monotonic() - started
    assert_same(result, undisturbed)
    assert happened(result) == [
        [("train", [0], DIED, "done again")],
        [("train", [1], DIED, "done again")],
        [("evaluate", [2], DIED, "done again")],
    ]
    assert not before & {place["pid"] for place in fleet.whereabouts()}
    assert not any(os.path.exists(f"/proc/{pid}") for pid in before)
    print(f"three replacements in {seconds:.1f} s")


def test_killed_between_two_rounds(fleet, begin, undisturbed):
    federation = begin(fleet)
    federation.run_round()
    os.kill(fleet.whereabouts()[1]["pid"], signal.SIGKILL)
    result = finish(federation)
    assert_same(result, undisturbed)
    assert happened(result) == [[], [("train", [1], DIED, "done again")], []]


def test_the_server_killed_while_it_selects_and_aggregates(fleet, begin, undisturbed, tmp_path):
    order(tmp_path, "select", 1, "kill")
    order(tmp_path, "aggregate", 2, "kill")
    order(tmp_path, "select", 4, "kill")  # for the evaluation after round 3
    result = finish(begin(fleet))
    assert_same(result, undisturbed)
    *first_two, last = happened(result)
    assert first_two == [[("select", [], SERVER_DIED, RESTARTED)], [("aggregate", [], SERVER_DIED, RESTARTED)]]
    # Nobody waited for the aggregation: its answer may or may not have left the process that died after it.
    assert last in [[(stage, [], SERVER_DIED, RESTARTED)] for stage in ("select", "aggregate")]


def test_the_server_that_hangs_is_replaced_and_no_client_is_blamed(fleet, begin, undisturbed, tmp_path):
    order(tmp_path, "select", 2, "hang")  # for the evaluation after round 1
    order(tmp_path, "aggregate", 3, "hang")
    result = finish(begin(fleet, server_timeout_s=3.0))
    assert_same(result, undisturbed)
    hung = "the server gave no answer within 3 s"
    assert happened(result) == [[("select", [], hung, RESTARTED)], [], [("aggregate", [], hung, RESTARTED)]]


def test_everybody_killed_in_one_round(fleet, begin, undisturbed, tmp_path):
    order(tmp_path, "select", 2, "kill")
    order(tmp_path, "aggregate", 2, "kill")
    for client in range(3):
        order(tmp_path, "train", 2, "kill", client=client)
    result = finish(begin(fleet))
    assert_same(result, undisturbed)
    assert sorted(map(len, happened(result))) == [0, 1, 4]


def test_a_client_that_hangs_is_replaced(fleet, begin, undisturbed, tmp_path):
    order(tmp_path, "train", 2, "hang", client=1)
    pid = fleet.whereabouts()[1]["pid"]
    result = finish(begin(fleet, client_timeout_s=4.0))
    assert_same(result, undisturbed)
    assert ("train", [1], "no answer within 4 s", "done again") in happened(result)[1]
    assert not os.path.exists(f"/proc/{pid}")


def test_a_client_that_raises_or_sends_rubbish_stops_nobody(fleet, begin, prepared, undisturbed, tmp_path):
    order(tmp_path, "train", 1, "raise", client=2)
    assert_same(finish(begin(fleet)), undisturbed)
    results = []
    for where in (LocalFleet(prepared), fleet):
        order(tmp_path, "train", 2, "shape", client=1)
        results.append(finish(begin(where)))
    assert results[0].state_sha256 == results[1].state_sha256 != undisturbed.state_sha256
    assert results[0].rounds[1].rejected == results[1].rounds[1].rejected != {}


def test_simulated_and_real_faults_go_together(fleet, begin, prepared, tmp_path):
    wanted = finish(begin(LocalFleet(prepared), faults={"drop_rate": 0.5}))
    assert any(report.dropped for report in wanted.rounds)
    order(tmp_path, "evaluate", 2, "kill", client=0)
    result = finish(begin(fleet, faults={"drop_rate": 0.5}))
    assert_same(result, wanted)
    assert [report.dropped for report in result.rounds] == [report.dropped for report in wanted.rounds]


def test_two_federations_side_by_side_whoever_is_ready_first(fleet, frozen, begin, undisturbed, tmp_path):
    for number, client in [(1, 0), (2, 2), (3, 0)]:
        order(tmp_path, "train", number, "late", client=client)
    shares = Shares(driver_cpu=0.1, server_cpu=0.1, client_cpu=0.1, client_gpu=0, client_actors=2)
    with closing(RayFleet(frozen, shares, start_timeout_s=240, own_group=True)) as other, ThreadPoolExecutor(2) as run:
        both = [begin(fleet), begin(other, clients_per_actor=2)]
        for result in run.map(finish, both):
            assert_same(result, undisturbed)


def test_dropped_for_dying_is_dropped_for_raising(fleet, begin, prepared, undisturbed, tmp_path):
    order(tmp_path, "train", 2, "raise", client=1, times=2)
    wanted = finish(begin(LocalFleet(prepared), on_client_failure="drop"))
    order(tmp_path, "train", 2, "kill", client=1)
    result = finish(begin(fleet, on_client_failure="drop"))
    assert_same(result, wanted)
    assert result.state_sha256 != undisturbed.state_sha256
    assert [dict(report.dropped) for report in result.rounds] == [{}, {1: DIED}, {}]


def test_too_many_deaths_end_the_federation_with_their_cause(fleet, begin, tmp_path):
    order(tmp_path, "train", 1, "raise", client=1, times=2)
    with pytest.raises(FederationError, match=r"train: client 1: raised ValueError.*, 2 times in a row"):
        finish(begin(fleet, retries=1))
    order(tmp_path, "aggregate", 1, "kill", times=1)
    with pytest.raises(FederationError, match=r"aggregate: the server's process died 1 times in a row"):
        finish(begin(fleet, retries=0))


def test_of_clients_that_share_a_process_one_cannot_harm_the_others(frozen, begin, undisturbed, tmp_path, monkeypatch):
    shares = Shares(driver_cpu=0.1, server_cpu=0.1, client_cpu=0.1, client_gpu=0, client_actors=1)
    fleet = RayFleet(frozen, shares, start_timeout_s=240, own_group=True)
    try:
        order(tmp_path, "train", 1, "kill", client=1, times=2)
        order(tmp_path, "train", 3, "raise", client=2)
        result = finish(begin(fleet, clients_per_actor=3))
        assert_same(result, undisturbed)
        everybody, raised = [0, 1, 2], "raised ValueError: a fault was ordered"
        assert happened(result) == [
            [("train", everybody, DIED, "done again"), ("train", everybody, DIED, "done again one by one")],
            [],
            [("train", everybody, raised, "done again one by one")],
        ]

        for name in ("MANY", "PART", "GROWTH"):  # so that an actor has calls waiting when it dies
            monkeypatch.setattr(ray_fleet, name, 1)
        order(tmp_path, "train", 1, "kill", client=0)
        order(tmp_path, "evaluate", 2, "late kill", client=1)
        order(tmp_path, "evaluate", 3, "raise", client=1)
        result = finish(begin(fleet, clients_per_actor=3))
        assert_same(result, undisturbed)
        assert happened(result) == [
            [("train", [0], DIED, "done again")],
            [("evaluate", [1], DIED, "done again")],
            [("evaluate", [1], raised, "done again")],
        ]
    finally:
        fleet.close()
