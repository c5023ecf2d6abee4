"""What docs/ show as code does what they say."""

import re

import pytest


@pytest.fixture
def adding_a_method(root, tmp_path, monkeypatch) -> dict:
    """The names that the page's test defines, with its method importable as the page has it."""
    text = (root / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    method, test = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "mixed_prompt.py").write_text(method, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    names: dict = {}
    exec(test, names)
    return names


def test_the_worked_example_of_a_method_passes_the_tests_shown_beside_it(adding_a_method):
    tests = [function for name, function in adding_a_method.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()
