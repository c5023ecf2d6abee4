"""Code that a configuration names is imported where the command line asks for it, and not because a file does."""

import sys

import pytest
import yaml

from promptfleet.errors import ConfigError
from promptfleet.imported import is_foreign
from promptfleet.methods import load_method

MODULE = """
from pathlib import Path
Path({mark!r}).touch()
from promptfleet.methods.coop import CoOp
class Mine(CoOp):
    pass
class Needy(CoOp):
    def __init__(self, what):
        pass
class NoConfig(CoOp):
    Config = dict
def function():
    Path({ran!r}).touch()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of someone's; it leaves a mark where it is imported, and another where a function of it is called."""
    mark, ran = tmp_path / "imported", tmp_path / "ran"
    (tmp_path / "stranger.py").write_text(MODULE.format(mark=str(mark), ran=str(ran)))
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)")
    (tmp_path / "breaks.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    yield mark, ran
    sys.modules.pop("stranger", None)


CONFIG = {"method": "stranger:Mine", "clients": 3}
SEARCH = {"federation": CONFIG, "space": {"prompt_lr": {"float": [0.01, 0.1]}}}
GRID = {"sampler": "grid", "space": {"method": {"choice": ["coop", "stranger:Mine"]}}}
COMPARISON = {
    "seeds": [0],
    "concurrent_trials": 1,
    "federation": {},
    "methods": {"stranger:Mine": {}},
    "tuning": {},
}
TUNED = {**COMPARISON, "methods": {"coop": {}}, "tuning": {"coop": SEARCH}}


@pytest.mark.parametrize(
    ("file", "values", "command"),
    [
        ("x.yaml", CONFIG, ["train.py", "--config", "x.yaml"]),
        ("x.yaml", {"federation.method": "stranger:Mine", **GRID}, ["tune.py", "--search", "x.yaml"]),
        ("x.yaml", CONFIG, ["encode.py", "--config", "x.yaml"]),
        (
            "results/federations/a/config.yaml",
            CONFIG,
            ["partition.py", "--config", "results/federations/a/config.yaml"],
        ),
        ("results/federations/a/config.yaml", CONFIG, ["train.py", "--resume", "results/federations/a"]),
        ("x.yaml", SEARCH, ["tune.py", "--search", "x.yaml", "--dry-run"]),
        ("x.yaml", GRID, ["tune.py", "--search", "x.yaml", "--dry-run"]),
        ("results/sweeps/a/sweep.yaml", SEARCH, ["tune.py", "--resume", "a", "--dry-run"]),
        ("results/sweeps/a/sweep.yaml", GRID, ["tune.py", "--resume", "a", "--dry-run"]),
        ("results/comparisons/a/comparison.yaml", COMPARISON, ["compare.py", "--resume", "a", "--dry-run"]),
        ("results/comparisons/a/comparison.yaml", TUNED, ["compare.py", "--resume", "a", "--dry-run"]),
    ],
)
def test_a_file_that_names_code_needs_trust(run_here, tmp_path, module, file, values, command):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(yaml.safe_dump(values))
    status, out, err = run_here(*command)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "method 'stranger:Mine' is code outside promptfleet, which would be run; give --trust-code" in err
    assert not module[0].exists()


def test_with_trust_it_is_imported(run_here, tmp_path, module):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(SEARCH))
    status, out, _ = run_here("tune.py", "--search", "x.yaml", "--dry-run", "--trust-code")
    assert status == 0
    assert "stranger:Mine" in out
    assert module[0].exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unittest.__main__:x", "it is a program, not a module"),
        ("stranger:function", "is not a subclass of promptfleet.methods.Method"),
        ("stranger:Path", "is not a subclass of promptfleet.methods.Method"),
        ("stranger:nothing", "module 'stranger' has no attribute 'nothing'"),
        ("stranger:Needy", "cannot be made without arguments: TypeError: "),
        ("stranger:NoConfig", "its Config is not a subclass of promptfleet.FederationConfig"),
        ("promptfleet.methods.protocol:Method", "cannot be made without arguments: TypeError: "),
        ("leaves:x", "cannot be imported: SystemExit: 0 ("),
        ("breaks:x", "cannot be imported: ZeroDivisionError: division by zero ("),
        ("nowhere_at_all:x", "No module named 'nowhere_at_all'"),
        (":x", "cannot be imported"),
        ("x..:y", "cannot be imported"),
    ],
)
def test_nothing_but_the_import_is_run_of_what_is_no_method(module, name, message):
    with pytest.raises(ConfigError) as caught:
        load_method(name)
    assert message in str(caught.value)
    assert not module[1].exists()


def test_code_of_the_package_itself_is_trusted():
    assert not is_foreign("coop")
    assert not is_foreign("promptfleet.methods.coop:CoOp")
    assert is_foreign("promptfleet_evil:Method")
    assert is_foreign("unittest.__main__:x")
