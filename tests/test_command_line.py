import io
import logging
import os
import signal
import subprocess
import sys
import warnings

import pytest

from promptfleet import job_environment
from promptfleet.command_line import ArgumentParser, path_argument, run
from promptfleet.errors import BackboneError, ConfigError, DataError, PromptfleetError, ResourceError
from promptfleet.job_environment import say_interrupted
from promptfleet.terminal import LiveLine


def outcome(main):
    with pytest.raises(SystemExit) as caught:
        run(main)
    return caught.value.code


def raiser(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize("kind", [ConfigError, DataError, BackboneError, ResourceError, PromptfleetError])
def test_a_users_mistake_is_one_line_and_status_2(capsys, kind):
    assert outcome(raiser(kind("clients: got 0, should be at least 1"))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: clients: got 0, should be at least 1\n"


def test_an_interrupt_is_one_line_and_status_130(capsys):
    assert outcome(raiser(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (3, 3)])
def test_status_is_what_main_returns(returned, status):
    assert outcome(lambda: returned) == status


@pytest.fixture
def parser():
    parser = ArgumentParser(prog="train.py", keys=lambda: ["clients", "rounds", "prompt_lr", "partition.alpha"])
    parser.add_argument("--config", type=path_argument)
    parser.add_set()
    return parser


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--clients", "5"], "unrecognized arguments: --clients 5; write --set clients=5"),
        (
            ["--clients=5", "--rounds", "3"],
            "unrecognized arguments: --clients=5 --rounds 3; write --set clients=5 rounds=3",
        ),
        (["clients=5"], "unrecognized arguments: clients=5; write --set clients=5"),
        (["--prompt-lr", "0.1"], "unrecognized arguments: --prompt-lr 0.1; write --set prompt_lr=0.1"),
        (["--partition.alpha", "1"], "unrecognized arguments: --partition.alpha 1; write --set partition.alpha=1"),
        (["--client", "5"], "unrecognized arguments: --client 5; did you mean --set clients=5?"),
        (["--sett=1", "x"], "unrecognized arguments: --sett=1 x; did you mean '--set'?"),
        (["--zzz"], "unrecognized arguments: --zzz"),
        (["--zzz=s3://me:secret@b"], "unrecognized arguments: --zzz=s3://***@b"),
        (["--config="], "argument --config: got '', should be a path"),
    ],
)
def test_a_wrong_option_is_one_line_that_points_to_the_right_one(capsys, parser, arguments, complaint):
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"train.py: {complaint} (see train.py --help)\n"


def test_an_empty_argument_is_named(capsys):
    job = ArgumentParser(prog="ui.py")
    job.add_argument("path", nargs="?", metavar="FOLDER")
    with pytest.raises(SystemExit):
        job.parse_args([""])
    assert capsys.readouterr().err.startswith("ui.py: argument FOLDER: got an empty text; leave it out")


def test_set_takes_several_again_and_again(parser):
    assert parser.parse_args(["--set", "a=1", "b=2", "--config", "x", "--set", "c=3"]).set == ["a=1", "b=2", "c=3"]


def test_a_path_starts_at_home(parser, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert parser.parse_args(["--config=~/x"]).config == "/home/me/x"


def test_names_in_output_errors_and_the_log_draw_nothing(capsys, monkeypatch):
    """A log of ours has one line per message; of libraries there are errors alone, in as many lines as they write."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys, "warnoptions", [])

    def main():
        print("class \x1b[31mred\nclass caf\udce9")
        logging.getLogger("promptfleet.data").warning("left out %s", "a\nb\x1b[2J")
        logging.getLogger("promptfleet.data").info("12 left out")
        logging.getLogger("library").warning("not for users")
        warnings.warn("nor this", FutureWarning, stacklevel=1)
        logging.getLogger("library").error("two\nlines\x07")
        raise DataError("no image in \x1b]0;title\x07")

    stdout = sys.stdout
    assert outcome(main) == 2
    out, err = capsys.readouterr()
    assert out == "class \\x1b[31mred\nclass caf\\xe9\n"
    assert err.splitlines() == [
        r"warning: left out a\nb\x1b[2J",
        "12 left out",
        "error: two",
        r"lines\x07",
        r"error: no image in \x1b]0;title\x07",
    ]
    assert sys.stdout is stdout
    with pytest.raises(SystemExit):
        ArgumentParser(prog="train.py").parse_args(["\x1b[31m"])
    assert "\x1b" not in capsys.readouterr().err


def test_a_terminal_that_lacks_a_character_gets_it_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    assert outcome(lambda: print("0.9 ± 0.1 │ 猫")) == 0
    stream.flush()
    assert stream.buffer.getvalue() == b"0.9 \xb1 0.1 \\u2502 \\u732b\n"


@pytest.mark.parametrize(
    ("stream", "main"),
    [
        ("stdout", "lambda: print('x' * 1_000_000)"),
        ("stdout", "lambda: print('few words, which are written when the job ends')"),
        ("stdout", "ArgumentParser().print_help"),
        ("stderr", "lambda: print('x', file=sys.stderr)"),
    ],
)
def test_who_stops_reading_ends_a_job_as_it_ends_other_tools(stream, main):
    code = f"import sys; from promptfleet.command_line import ArgumentParser, run; run({main})"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    job = subprocess.Popen([sys.executable, "-c", code], env=buffered, **pipes)
    getattr(job, stream).close()
    other = job.stderr if stream == "stdout" else job.stdout
    with other:
        assert other.read() == b""
    assert job.wait() == 128 + signal.SIGPIPE


def test_a_broken_connection_elsewhere_is_no_end_of_output():
    with pytest.raises(BrokenPipeError):
        run(raiser(BrokenPipeError("a bucket")))


def test_an_error_replaces_the_line_that_a_terminal_was_to_rewrite(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    def main():
        LiveLine(sys.stderr).rewrite("trial 0 round 1/3")
        logging.getLogger("promptfleet.data").info("a line that stays")
        LiveLine(sys.stderr).rewrite("trial 0 round 2/3")
        raise DataError("why")

    assert outcome(main) == 2
    assert terminal.shown() == "a line that stays\nerror: why\n"


def test_ctrl_c_while_a_job_imports_is_one_line(capsys, monkeypatch):
    say_interrupted(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "interrupted\n"
    say_interrupted(ImportError, ImportError("no torch"), None)
    assert capsys.readouterr().err == "ImportError: no torch\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background"])
def test_told_to_end_a_job_does_what_it_does_after_ctrl_c(capsys, handlers, number, ctrl_c):
    signal.signal(signal.SIGINT, ctrl_c)
    assert outcome(lambda: signal.raise_signal(number)) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_told_to_end_a_sweep_stops_as_tune_does_after_ctrl_c(handlers):
    stopped = []

    def main():
        signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
        signal.raise_signal(signal.SIGTERM)

    assert outcome(main) == 0
    assert stopped == [signal.SIGINT]


def test_what_nohup_ignores_stays_ignored(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert outcome(lambda: signal.raise_signal(signal.SIGHUP)) == 0


def test_a_user_without_an_account_has_a_home(monkeypatch):
    def nowhere(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(job_environment.Path, "home", classmethod(nowhere))
    monkeypatch.setenv("HOME", "")  # so that it is set again afterwards
    job_environment.have_a_home()
    assert os.environ["HOME"] == "/"


@pytest.fixture
def handlers():
    """Signal handlers are those of a new process, also under nohup, and afterwards what they were before."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
