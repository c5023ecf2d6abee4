"""A study whose database is damaged: said in one line, and made again from what its trials left."""

import os
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState

from promptfleet.errors import DataError
from promptfleet.federation.checkpoints.checkpoint import save_snapshot
from promptfleet.federation.rounds import Snapshot
from promptfleet.search.folders import trial_folder
from promptfleet.search.rebuild import BESIDE, rebuild_study
from promptfleet.search.spec import parse_sweep
from promptfleet.search.study import SweepStudy
from promptfleet.search.study_file import FILE, DamagedStudy
from promptfleet.search.sweep import open_study
from tests.tracking.values import make_result

slow = pytest.mark.slow
SPEC = parse_sweep(
    {
        "trials": 10,
        "startup_trials": 3,
        "grace_rounds": 2,
        "federation": {"rounds": 9},
        "space": {
            "experts": {"int": [1, 9]},
            "lambda": {"float": [0.1, 2.0], "log": True},
            "prompt_length": {"choice": [4, 8, 16]},
        },
    },
    source="test",
)


def accuracy(params, round_index):
    return (params["experts"] / 20 - abs(params["lambda"] - 0.5) / 10) * round_index / 9


def run_trials(folder, *, stop_after: int) -> SweepStudy:
    """Run trials like the driver: rounds are in a trial's result before the study has them. The last is cut off."""
    study = open_study(SPEC, folder)
    for _ in range(stop_after):
        number, params = (proposal := study.next_proposal()).number, proposal.params
        for round_index in range(1, 10):
            write_result(folder, number, params, round_index)
            study.report(number, round_index, accuracy(params, round_index))
            if number == stop_after - 1 and round_index == 1:
                return study
            if study.should_stop(number, round_index):
                study.prune(number)
                break
        else:
            study.complete(number, accuracy(params, 9))
    raise AssertionError


def write_result(folder, number, params, rounds):
    result = make_result(SPEC.config(params), rounds=rounds)
    reports = [replace(report, honest_val_accuracy=accuracy(params, report.round)) for report in result.rounds]
    path = trial_folder(folder, number) / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(replace(result, rounds=reports).to_json())


def rows(study):
    return [(t.number, t.state, t.params, t.value, t.intermediate_values) for t in study.trials()]


def rebuild(folder):
    return rebuild_study(folder, lambda place: open_study(SPEC, place), SPEC.space, SPEC.config)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun")
    return folder, rows(run_trials(folder, stop_after=6))


@pytest.fixture
def folder(begun, tmp_path):
    return shutil.copytree(begun[0], tmp_path / "sweep")


def cut_off(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def overwrite(file):
    content = bytearray(file.read_bytes())
    content[4096 : len(content) - 4096] = b"\x5a" * (len(content) - 8192)
    file.write_bytes(content)


def restore_backup(file):
    """Restore the backup of a sweep without trials."""
    backup = file.parent.parent / "backup"
    backup.mkdir()
    open_study(SPEC, backup)
    (backup / FILE).replace(file)


def put_folder(file):
    file.unlink()
    file.mkdir()
    (file / "notes.txt").write_text("mine")


def put_pipe(file):
    file.unlink()
    os.mkfifo(file)


def put_link(file):
    file.unlink()
    file.symlink_to("gone/study.db")


def changed(*statements):
    """Its pages are in order, and what is in them is not what was written."""

    def change(file):
        with closing(sqlite3.connect(file)) as database, database:
            for statement in statements:
                database.execute(statement)

    return change


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(cut_off, id="cut off"),
        pytest.param(lambda file: file.unlink(), id="gone"),
        pytest.param(overwrite, id="overwritten", marks=slow),
        pytest.param(restore_backup, id="an old backup", marks=slow),
        pytest.param(put_folder, id="a folder", marks=slow),
        pytest.param(put_link, id="a link to nothing", marks=slow),
        pytest.param(lambda file: file.write_text("this is no database " * 100), id="no database", marks=slow),
        pytest.param(lambda file: file.write_bytes(b""), id="empty", marks=slow),
    ],
)
def test_a_damaged_study_is_one_line_and_is_rebuilt_row_by_row(begun, folder, damage):
    assert {row[1] for row in begun[1]} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING}
    damage(folder / FILE)
    saved = r"; 6 of its trials have their results on disk: give --rebuild-study with --resume to use them$"
    with pytest.raises(DamagedStudy, match=rf"^the study {folder}/{FILE} is damaged \(.+\){saved}"):
        open_study(SPEC, folder)
    assert rows(rebuild(folder)) == begun[1]
    assert rows(open_study(SPEC, folder)) == begun[1]
    kept = {path.name for path in folder.iterdir()} - {f"{FILE}.damaged"}
    assert kept == {FILE, "trials"}


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (put_pipe, "it is no file"),
        (changed("alter table trial_intermediate_values drop column intermediate_value_type"), "no such column: .+"),
        (changed("drop table trial_values"), "trial 0 is complete without a value"),
        (changed("delete from studies"), "Optuna cannot read its rows"),
        (changed("delete from trials where number = 0"), "it knows of 5 trials, there is a folder of number 5"),
        (changed("update trials set number = number + 1"), "trial 0 is missing"),
        (
            changed("delete from trial_params where trial_id = 2 and param_name = 'lambda'"),
            "trial 1 does not have the keys that are searched",
        ),
        (changed("update trial_params set distribution_json = '{}'"), "Optuna cannot read its rows"),
        (changed("update trial_params set distribution_json = '['"), "Optuna cannot read its rows"),
        (changed("update trials set state = 'WEIRD' where number = 1"), "Optuna cannot read its rows"),
    ],
)
def test_what_sqlite_reads_and_no_sweep_wrote_is_damage_too(folder, monkeypatch, damage, why):
    """It is not taken for a lock, which would be waited for."""
    monkeypatch.setattr("promptfleet.outages.time.sleep", lambda _: pytest.fail("it waits"))
    damage(folder / FILE)
    with pytest.raises(DamagedStudy, match=rf"^the study {folder}/{FILE} is damaged \({why}\); 6 of its trials have"):
        open_study(SPEC, folder)


@pytest.mark.parametrize("version", ["v99.0.0.a", pytest.param("v2.4.0.a", marks=slow)])
def test_a_study_of_another_version_is_one_line_and_is_rebuilt(begun, folder, version):
    changed(f"update alembic_version set version_num = '{version}'")(folder / FILE)
    why = f"cannot be used (it is of another version of Optuna than {optuna.__version__}); 6 of its trials"
    with pytest.raises(DamagedStudy, match=re.escape(f"the study {folder}/{FILE} {why}")):
        open_study(SPEC, folder)
    assert rows(rebuild(folder)) == begun[1]


def test_a_study_that_another_keeps_locked_is_not_rebuilt(folder, monkeypatch):
    monkeypatch.setattr("promptfleet.search.study_file.BUSY_S", 0.01)
    monkeypatch.setattr("promptfleet.search.study_file.PATIENCE_S", 0.0)
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as other:
        other.execute("begin exclusive")
        with pytest.raises(DataError, match=r"cannot be used \(database is locked\); --resume continues once it can$"):
            rebuild(folder)
    assert {path.name for path in folder.iterdir()} == {FILE, "trials"}


def test_a_study_in_order_is_left_as_it_is(begun, folder):
    before = (folder / FILE).read_bytes()
    assert rows(rebuild(folder)) == begun[1]
    assert (folder / FILE).read_bytes() == before


def test_a_trial_without_a_result_is_proposed_again(begun, folder, caplog):
    (folder / FILE).unlink()
    (trial_folder(folder, 2) / "result.json").write_text("{")
    shutil.rmtree(trial_folder(folder, 4))
    found = rows(rebuild(folder))
    assert [row[2] for row in found] == [row[2] for row in begun[1]], "the same, since those before it are"
    assert [row[1] for row in found if row[0] in (2, 4)] == [TrialState.RUNNING] * 2
    assert "trials/002: has no result that can be used" in caplog.text
    assert trial_folder(folder, 2).exists(), "which may have checkpoints of this very federation"


def test_what_a_folder_holds_of_another_federation_is_put_aside(folder):
    (folder / FILE).unlink()
    (trial_folder(folder, 0) / "result.json").unlink()
    save_snapshot(trial_folder(folder, 0), Snapshot({}, {}, make_result(rounds=1).rounds, []), "another")
    rebuild(folder)
    assert not trial_folder(folder, 0).exists()
    assert (folder / "trials" / "000.other" / "checkpoints").is_dir()


def test_a_result_that_cannot_be_read_is_no_missing_one(folder):
    """Nothing is put aside and no trial is proposed again for a disk that fails."""
    overwrite(folder / FILE)
    path = trial_folder(folder, 2) / "result.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        rebuild(folder)
    assert path.is_dir()


def test_killed_meanwhile_the_old_study_is_there_and_can_be_rebuilt(begun, folder, monkeypatch):
    cut_off(folder / FILE)
    before = (folder / FILE).read_bytes()
    restore, calls = SweepStudy.restore, []

    def killed(study, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        restore(study, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(SweepStudy, "restore", killed)
        with pytest.raises(KeyboardInterrupt):
            rebuild(folder)
    assert (folder / FILE).read_bytes() == before
    assert (folder / BESIDE).exists()
    assert rows(rebuild(folder)) == begun[1]
