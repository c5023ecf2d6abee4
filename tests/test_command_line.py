import pytest

from promptfleet.command_line import ArgumentParser, run
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


def test_a_wrong_option_is_one_line_without_usage(capsys):
    parser = ArgumentParser(prog="train.py")
    parser.add_argument("--set")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--sett=1", "x"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "train.py: unrecognized arguments: --sett=1 x (see train.py --help)\n"
