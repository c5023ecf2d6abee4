import io
import logging
import sys

import pytest

from promptfleet.command_line import ArgumentParser, path_argument, run
from promptfleet.errors import BackboneError, ConfigError, DataError, PromptfleetError, ResourceError


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


def test_set_takes_several_again_and_again(parser):
    assert parser.parse_args(["--set", "a=1", "b=2", "--config", "x", "--set", "c=3"]).set == ["a=1", "b=2", "c=3"]


def test_a_path_starts_at_home(parser, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert parser.parse_args(["--config=~/x"]).config == "/home/me/x"


def test_names_in_output_errors_and_the_log_draw_nothing(capsys, monkeypatch):
    """A log of ours has one line per message; of libraries, as many as they write."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    def main():
        print("class \x1b[31mred\nclass caf\udce9")
        logging.getLogger("promptfleet.data").warning("left out %s", "a\nb\x1b[2J")
        logging.getLogger("library").warning("two\nlines\x07")
        raise DataError("no image in \x1b]0;title\x07")

    stdout = sys.stdout
    assert outcome(main) == 2
    out, err = capsys.readouterr()
    assert out == "class \\x1b[31mred\nclass caf\\xe9\n"
    assert err.splitlines() == [
        r"promptfleet.data: left out a\nb\x1b[2J",
        "library: two",
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
