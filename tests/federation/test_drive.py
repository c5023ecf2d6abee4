"""The driver of rounds: which reports listeners get, in which order, and when a federation ends."""

from types import SimpleNamespace

import pytest

import promptfleet
from promptfleet import Decision
from promptfleet.errors import DataError
from promptfleet.federation.drive import Checkpoints, RequireAccepted, rounds
from promptfleet.federation.failures import NothingAccepted
from tests.federation.test_reports import ACCEPTED, REJECTED


class Counting:
    """A federation whose reports are the numbers of its rounds."""

    def __init__(self, done, total):
        self.reports, self.config = self._numbered(done), SimpleNamespace(rounds=total)

    @property
    def rounds_done(self):
        return len(self.reports)

    def run_round(self):
        self.reports = self._numbered(self.rounds_done + 1)

    def _numbered(self, count):
        return [SimpleNamespace(round=number) for number in range(1, count + 1)]


class Folder:
    """Notes what it has to do; ``refuses`` is the error of a last round that cannot be written."""

    newest = None

    def __init__(self, rounds_saved=0, refuses=None):
        self.rounds_saved, self.refuses, self.calls = rounds_saved, refuses, []

    def save(self):
        self.rounds_saved += 1
        self.calls.append(f"save {self.rounds_saved}")

    def wait(self):
        self.calls.append("wait")

    def flush(self):
        self.calls.append("flush")
        if self.refuses:
            raise self.refuses


class Noting:
    def __init__(self, name, notes, stop_after=None):
        self.name, self.notes, self.stop_after = name, notes, stop_after

    def after_round(self, report):
        self.notes.append(f"{self.name} {report.round}")
        return Decision.STOP if report.round == self.stop_after else Decision.CONTINUE


def numbers(*arguments, **options):
    return [report.round for report in rounds(*arguments, **options)]


def test_listeners_have_each_report_in_their_order_before_it_is_yielded():
    notes = []
    for report in rounds(Counting(0, 2), None, [Noting("first", notes), Noting("second", notes)]):
        notes.append(f"yielded {report.round}")
    assert notes == ["first 1", "second 1", "yielded 1", "first 2", "second 2", "yielded 2"]


@pytest.mark.parametrize(("reported", "expected"), [(None, [4]), (3, [4]), (1, [2, 3, 4]), (0, [1, 2, 3, 4])])
def test_rounds_of_an_earlier_process_are_reported_where_they_were_not(reported, expected):
    federation = Counting(3, 4)
    assert numbers(federation, reported=reported) == expected
    assert federation.rounds_done == 4
    assert numbers(federation) == []


def test_a_listener_that_stops_ends_it_after_all_others_had_the_round():
    notes, federation = [], Counting(0, 5)
    assert numbers(federation, None, [Noting("stops", notes, stop_after=2), Noting("last", notes)]) == [1, 2]
    assert (notes[-1], federation.rounds_done) == ("last 2", 2)


@pytest.mark.parametrize(
    ("saved", "wait", "calls"),
    [
        (0, False, ["save 1", "save 2", "save 3"]),
        (0, True, ["save 1", "wait", "save 2", "wait", "save 3", "flush"]),
        (2, True, ["wait", "wait", "save 3", "flush"]),
    ],
)
def test_each_new_round_is_saved_once_and_waited_for_where_that_is_wanted(saved, wait, calls):
    folder = Folder(saved)
    numbers(Counting(saved, 3), folder, [Checkpoints(folder, rounds=3, wait=wait)], reported=0)
    assert folder.calls == calls


def test_a_last_round_that_cannot_be_written_reaches_no_later_listener():
    notes, folder = [], Folder(refuses=DataError("full"))
    with pytest.raises(DataError, match="full"):
        numbers(Counting(0, 2), folder, [Checkpoints(folder, rounds=2, wait=True), Noting("later", notes)])
    assert notes == ["later 1"]


def test_a_federation_that_learns_nothing_is_ended_also_where_its_rounds_are_reported_again():
    reports = [SimpleNamespace(round=number, **vars(REJECTED)) for number in range(1, 4)]
    federation = SimpleNamespace(reports=reports, rounds_done=3, config=SimpleNamespace(rounds=5))
    seen = []
    with pytest.raises(NothingAccepted, match="no update was accepted in 3 rounds, the last time since client 1's"):
        seen.extend(rounds(federation, None, [RequireAccepted(federation)], reported=0))
    assert seen == reports[:2]
    federation.reports = [SimpleNamespace(round=1, **vars(ACCEPTED)), *reports[1:]]
    assert RequireAccepted(federation).after_round(reports[2]) == Decision.CONTINUE


def test_a_federation_that_a_listener_ends_has_a_result_and_continues_without_it(few_shot_config, tmp_path):
    config = few_shot_config(rounds=3, runtime={"backend": "local"})
    notes = []
    stopped = promptfleet.run_federation(config, folder=tmp_path / "out", listeners=[Noting("stop", notes, 1)])
    assert (notes, len(stopped.rounds)) == (["stop 1"], 1)
    whole = promptfleet.run_federation(config, folder=tmp_path / "out", listeners=[Noting("all", notes)])
    assert (notes, len(whole.rounds)) == (["stop 1", "all 2", "all 3"], 3)
    assert whole.state_sha256 == promptfleet.run_federation(config).state_sha256 != stopped.state_sha256
