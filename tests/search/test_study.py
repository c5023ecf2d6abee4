"""The study decides, remembers, and can be left at any moment."""

import re
import shutil
import sqlite3
from contextlib import contextmanager

import pytest
from optuna.trial import TrialState
from sqlalchemy import event

from promptfleet.errors import DataError
from promptfleet.search.quantities import RoundFigures
from promptfleet.search.space import Choice, FloatRange, IntRange
from promptfleet.search.spec import SweepSettings
from promptfleet.search.study import SweepStudy
from promptfleet.search.study_file import FILE
from tests.search.made_up_study import run_study

SPACE = {"experts": IntRange(1, 9), "tau": FloatRange(0.01, 1.0, log=True), "length": Choice((4, 8, 16))}
ROUNDS = 9


@pytest.fixture
def study(tmp_path, empty):
    shutil.copy(empty / FILE, tmp_path)
    return SweepStudy(tmp_path, SPACE, SweepSettings(trials=20), ROUNDS)


def accuracy(params, round_index):
    """A made-up federation: better with more experts, growing by round."""
    return (params["experts"] / 10 - abs(params["tau"] - 0.1)) * round_index / ROUNDS


def run_sweep(folder, settings, stop_after=None):
    """Run trials like the driver, opening the study again; after ``stop_after`` rounds in all the power fails."""
    study = SweepStudy(folder, SPACE, settings, ROUNDS)
    run_study(study, ROUNDS, accuracy, stop_after)
    return study


def rows(study):
    return [(t.number, t.state, t.params, t.value, t.intermediate_values) for t in study.trials()]


@pytest.mark.slow
def test_killed_again_and_again_and_resumed_it_is_the_undisturbed_study_row_by_row(tmp_path):
    settings = SweepSettings(trials=12, startup_trials=4)
    undisturbed = run_sweep(tmp_path_of(tmp_path, "undisturbed"), settings)
    assert {t.state for t in undisturbed.trials()} == {TrialState.COMPLETE, TrialState.PRUNED}
    killed = tmp_path_of(tmp_path, "killed")
    ended = []
    for stop_after in (1, 6, 5, 8, 11, 9):  # rounds: within trials and as they end, before and after startup
        ended.append(sum(trial.state.is_finished() for trial in run_sweep(killed, settings, stop_after).trials()))
    assert ended[0] == 0
    assert ended == sorted(ended)
    assert 4 < ended[-1] < 12
    assert rows(run_sweep(killed, settings)) == rows(undisturbed)


def tmp_path_of(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    return folder


def test_the_sweep_seed_decides_the_proposals(tmp_path):
    def params(name, seed):
        study = SweepStudy(tmp_path_of(tmp_path, name), SPACE, SweepSettings(trials=3, seed=seed), ROUNDS)
        return [study.next_proposal().params for _ in range(3)]

    assert params("a", 0) == params("b", 0) != params("c", 1)


def test_the_budget_ends_the_sweep_and_a_larger_one_goes_on(tmp_path):
    run_sweep(tmp_path, SweepSettings(trials=2))
    assert SweepStudy(tmp_path, SPACE, SweepSettings(trials=2), ROUNDS).next_proposal() is None
    assert SweepStudy(tmp_path, SPACE, SweepSettings(trials=3), ROUNDS).next_proposal().number == 2


def test_an_unfinished_trial_is_handed_out_again_before_a_new_one(tmp_path, study):
    proposal = study.next_proposal()
    study.report(proposal.number, 1, 0.5)
    study.report(proposal.number, 2, 0.6)
    again = SweepStudy(tmp_path, SPACE, SweepSettings(trials=20), ROUNDS).next_proposal()
    assert (again.number, again.params, again.settled_rounds) == (0, proposal.params, 1)
    assert study.next_proposal().number == 1


def test_a_power_cut_while_a_trial_is_proposed_leaves_no_half_of_one(tmp_path, study):
    cut = []

    def keep(_):
        """Copy the content of the disk just before a commit."""
        cut.append(tmp_path_of(tmp_path, f"cut-{len(cut)}"))
        shutil.copy(tmp_path / FILE, cut[-1])

    event.listen(engine_of(study), "commit", keep)
    wanted = study.next_proposal()
    assert len(cut) > 1
    for folder in cut:
        again = SweepStudy(folder, SPACE, SweepSettings(trials=20), ROUNDS).next_proposal()
        assert (again.number, again.params) == (wanted.number, wanted.params)


def ask_and_report(study, round_index, *values):
    numbers = []
    for value in values:
        numbers.append(study.next_proposal().number)
        study.report(numbers[-1], round_index, value)
    return numbers


def test_at_a_rung_the_best_third_goes_on(study):
    *_, candidate = ask_and_report(study, 2, 0.1, 0.2, 0.3, 0.29)
    assert not study.should_stop(candidate, 2)  # the 2/3 quantile of 0.1, 0.2, 0.3 is 0.2333
    *_, candidate = ask_and_report(study, 2, 0.23)  # ... and that of the four is 0.29
    assert study.should_stop(candidate, 2)


def test_the_first_at_a_rung_goes_on_and_between_rungs_nobody_stops(study):
    (first,) = ask_and_report(study, 2, 0.1)
    assert not study.should_stop(first, 2)
    for round_index in (1, 3, 4, 5, 7, 8, 9):
        numbers = ask_and_report(study, round_index, 0.9, 0.0)
        assert not study.should_stop(numbers[1], round_index)
    numbers = ask_and_report(study, 6, 0.9, 0.0)
    assert study.should_stop(numbers[1], 6)  # rungs are at 2 and 2 * 3


def test_pruned_is_not_complete_and_keeps_its_last_value(study):
    (number,) = ask_and_report(study, 2, 0.4)
    study.prune(number)
    trial = study.trials()[number]
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.PRUNED, 0.4, {2: 0.4})


def test_saying_things_twice_changes_nothing(study):
    (number,) = ask_and_report(study, 1, 0.4)
    study.report(number, 1, 0.9)
    study.complete(number, 0.5)
    study.complete(number, 0.7)
    study.prune(number)
    study.fail(number, "late")
    study.report(number, 2, 0.9)
    trial = study.trials()[number]
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 0.5, {1: 0.4})


def test_a_round_is_written_without_reading_the_trials_again(study, tmp_path):
    number = study.next_proposal().number
    study.trials()
    with counted_selects(study._file._storage) as selects:
        for round_index in (1, 2, 3):
            study.report(number, round_index, round_index / 10)
            study.should_stop(number, round_index)
            study.trials()
        study.note(number, RoundFigures({"rounds": 3.0, "seconds": 0.5}, [0.3, None]))
    assert not [text for text in selects if "trial_params" in text], "of a long sweep that is most of its study's time"
    assert study.trials()[number].intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3}
    assert study.trials() == SweepStudy(tmp_path, SPACE, SweepSettings(trials=20), ROUNDS).trials()


@contextmanager
def counted_selects(storage):
    texts = []

    def note(connection, cursor, statement, *_):
        texts.append(statement)

    event.listen(storage._backend.engine, "before_cursor_execute", note)
    yield texts
    event.remove(storage._backend.engine, "before_cursor_execute", note)


def test_a_failed_trial_says_why(study):
    (number,) = ask_and_report(study, 1, 0.4)
    study.fail(number, "its process died")
    trial = study.trials()[number]
    assert (trial.state, trial.user_attrs["error"]) == (TrialState.FAIL, "its process died")


def test_importances_need_five_complete_trials_and_name_every_key(study):
    for complete in range(8):
        if complete < 5:
            assert study.importances() is None
        proposal = study.next_proposal()
        study.complete(proposal.number, accuracy(proposal.params, ROUNDS))
    shares = study.importances().shares
    assert shares.keys() == SPACE.keys()
    assert sum(shares.values()) == pytest.approx(1)


def test_a_grid_runs_its_points_in_order_to_their_ends(tmp_path):
    space = {"experts": Choice((9, 1)), "tau": Choice((0.1, 1.0))}
    settings, rounds = SweepSettings(sampler="grid", trials=4, grace_rounds=1), 3
    begun = SweepStudy(tmp_path, space, settings, rounds)
    begun.report(begun.next_proposal().number, 1, 0.5)  # and the power goes out
    study = SweepStudy(tmp_path, space, settings, rounds)
    while proposal := study.next_proposal():
        for round_index in range(1, rounds + 1):
            study.report(proposal.number, round_index, accuracy(proposal.params, round_index))
            assert not study.should_stop(proposal.number, round_index)
        study.complete(proposal.number, accuracy(proposal.params, rounds))
    points = [(9, 0.1), (9, 1.0), (1, 0.1), (1, 1.0)]
    assert [tuple(trial.params.values()) for trial in study.trials()] == points
    assert study.is_over()


def test_the_first_trial_may_be_given_and_the_others_are_not(tmp_path):
    study = SweepStudy(tmp_path, SPACE, SweepSettings(trials=3), ROUNDS, {"experts": 7, "tau": 0.5})
    first, second = study.next_proposal().params, study.next_proposal().params
    assert (first["experts"], first["tau"]) == (7, 0.5)
    assert second["tau"] != 0.5


def test_trials_left_counts_what_has_not_ended(study):
    assert (study.trials_left(), study.is_over()) == (20, False)
    (number,) = ask_and_report(study, 1, 0.4)
    assert study.trials_left() == 20
    study.fail(number, "why")
    assert study.trials_left() == 19


def test_a_trial_that_failed_is_handed_out_again_and_told_its_last_round_again(study):
    first, second = study.next_proposal(), study.next_proposal()
    study.report(first.number, 1, 0.1)
    study.report(first.number, 2, 0.2)
    study.take_back(first.number)
    assert (study.has_ended(first.number), study.rounds_reported(first.number)) == (False, 2)
    again = study.next_proposal()
    assert (again.number, again.params, again.settled_rounds) == (first.number, first.params, 1)
    assert study.next_proposal().number == second.number + 1


LONG = "why " * 5_000  # takes new pages of the database


def engine_of(study):
    return study._study._storage._backend.engine


def limit_database(study, pages):
    """Limit the database to its present size, or to this many pages."""

    def limit(connection, *_):
        connection.execute(f"PRAGMA max_page_count={pages}")

    event.listen(engine_of(study), "checkout", limit)


def test_a_full_disk_is_waited_for(study, monkeypatch, caplog):
    (number,) = ask_and_report(study, 1, 0.4)
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            limit_database(study, 100_000)

    monkeypatch.setattr("promptfleet.outages.time.sleep", sleep)
    limit_database(study, 1)
    study.fail(number, LONG)
    assert waited == [0.5, 1.0, 2.0]
    assert caplog.text.count("study.db cannot be used (database or disk is full); retrying") == 1
    trial = study.trials()[number]
    assert (trial.state, trial.user_attrs["error"]) == (TrialState.FAIL, LONG)
    study.require_written()


def test_a_disk_that_stays_full_is_one_line(study, monkeypatch):
    (number,) = ask_and_report(study, 1, 0.4)
    monkeypatch.setattr("promptfleet.search.study_file.PATIENCE_S", 0.0)
    limit_database(study, 1)
    with pytest.raises(
        DataError, match=r"^the study .*study\.db cannot be used \(database or disk is full\); --resume"
    ):
        study.fail(number, LONG)
    with pytest.raises(DataError, match=re.escape("database or disk is full")):
        study.require_written()  # Ray Tune has made something else of it
    assert not study.has_ended(number)


@pytest.fixture
def locked(monkeypatch, tmp_path):
    """``with locked():`` another process has the database; it lets go while somebody waits for the second time."""
    monkeypatch.setattr("promptfleet.search.study_file.BUSY_S", 0.01)

    @contextmanager
    def lock():
        other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        other.execute("begin exclusive")
        waited = []

        def sleep(seconds):
            waited.append(seconds)
            if len(waited) == 2:
                other.rollback()

        monkeypatch.setattr("promptfleet.outages.time.sleep", sleep)
        yield
        other.close()
        assert waited == [0.5, 1.0]

    return lock


@pytest.mark.parametrize(
    "access",
    [
        lambda study: study.next_proposal().number == 0,
        lambda study: not study.has_ended(0),
        lambda study: study.rounds_reported(0) == 2,
        lambda study: study.trials_left() == 20,
        lambda study: not study.is_over(),
        lambda study: not study.should_stop(0, 2),
        lambda study: len(study.trials()) == 1,
        lambda study: study.report(0, 3, 0.5) is None,
    ],
)
def test_every_access_waits_for_a_lock(study, tmp_path, locked, access, capfd):
    ask_and_report(study, 1, 0.4)
    study.report(0, 2, 0.4)
    resumed = SweepStudy(tmp_path, SPACE, SweepSettings(trials=20), ROUNDS)  # which has read no trial
    with locked():
        assert access(resumed)
    assert capfd.readouterr() == ("", ""), "Optuna has nothing to say about it"


def test_opening_waits_for_a_lock(tmp_path, study, locked, caplog):
    with locked():
        again = SweepStudy(tmp_path, SPACE, SweepSettings(trials=20), ROUNDS)
    assert again.next_proposal().number == 0
    assert caplog.text.count("study.db cannot be used (database is locked); retrying for up to 600 s") == 1


def test_a_folder_may_have_any_name(tmp_path):
    folder = tmp_path_of(tmp_path, "a%41 b?c=d #x {y} ü")
    assert SweepStudy(folder, SPACE, SweepSettings(trials=1), ROUNDS).next_proposal().number == 0
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_null_is_a_choice_like_any_other(tmp_path):
    space = {"partition.shots": Choice((None, 4)), "shuffle": Choice((True, False))}
    proposed = set()
    for _ in range(2):  # the second time from disk
        study = SweepStudy(tmp_path, space, SweepSettings(trials=8, startup_trials=2), 3)
        while (proposal := study.next_proposal()) is not None and proposal.number < 4:
            proposed.add(proposal.params["partition.shots"])
            study.complete(proposal.number, 0.5 if proposal.params["partition.shots"] is None else 0.25)
    assert proposed == {None, 4}
    assert max(study.trials()[:4], key=lambda trial: trial.value).params["partition.shots"] is None
