"""The examples in the docstrings of the public names print what they say."""

import doctest

import pytest

import promptfleet
from promptfleet import methods

WITH_EXAMPLES = {
    "FederationConfig",
    "FederationResult",
    "config_class",
    "load_method",
    "run_federation",
    "synced_storage",
}


def examples() -> dict[str, doctest.DocTest]:
    """The examples of each public name that has some, by the name; those of a class's methods are among its own."""
    public = {name: getattr(package, name) for package in (promptfleet, methods) for name in package.__all__}
    found = [test for name, value in public.items() for test in doctest.DocTestFinder().find(value, name)]
    return {test.name: test for test in found if test.examples}


def test_the_main_entry_points_have_examples():
    assert set(examples()) >= WITH_EXAMPLES


@pytest.mark.parametrize("name", examples())
def test_examples_print_what_they_say(name, storage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(storage)  # where the digits are encoded once
    report: list[str] = []
    result = doctest.DocTestRunner().run(examples()[name], out=report.append)
    assert result.failed == 0, "".join(report)
    assert result.attempted > 1
