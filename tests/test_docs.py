"""Code in docs/: it works as the pages say."""

import importlib.util
import re
from typing import Annotated, Literal

import pytest
import torch
from pydantic import Field

from promptfleet import methods
from promptfleet.config import Seconds, dotted_fields
from promptfleet.config_types import FilePath
from promptfleet.federation.evaluation.answers import server_model
from promptfleet.methods import METHODS, config_class
from tests.fakes import tiny_examples, tiny_task
from tests.tiny_federation import ALL, equal, tiny_federation


@pytest.fixture
def adding_a_method(root, tmp_path, monkeypatch) -> dict:
    """The names that the page's test defines, with its method and its plug-in importable as the page has them."""
    text = (root / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    method, test, plug_in = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "mixed_prompt.py").write_text(method, encoding="utf-8")
    (tmp_path / "channels.py").write_text(plug_in, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    names: dict = {}
    exec(test, names)
    return names


def test_the_worked_example_of_a_method_passes_the_tests_shown_beside_it(adding_a_method):
    tests = [function for name, function in adding_a_method.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


@pytest.mark.usefixtures("adding_a_method")
def test_the_plug_in_of_the_page_trains_its_channels_and_is_fedpgp_without():
    fixed, trained = (
        tiny_federation("channels:ChannelsOnFedPGP", channel_lr=lr).run([ALL, [0, 1]]) for lr in (0.0, 0.5)
    )
    fedpgp = tiny_federation("fedpgp").run([ALL, [0, 1]])
    assert equal(fixed.server.state, fedpgp.server.state)
    assert not torch.equal(trained.privates[0]["channels.weight"], fixed.privates[0]["channels.weight"])
    assert not torch.equal(trained.logits(0), fedpgp.logits(0))
    of_server = server_model(trained.method, tiny_task(trained.world, trained.privates[0], trained.download(0)))
    images = tiny_examples(trained.world, 8).images
    assert trained.method.predict(of_server, images).isfinite().all()  # it has no weights of channels


@pytest.fixture
def configuration(root):
    """The script that writes docs/configuration.md."""
    spec = importlib.util.spec_from_file_location("configuration", root / "docs" / "configuration.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_all_keys_is_current(configuration):
    written = configuration.PAGE.read_text(encoding="utf-8")
    assert written == configuration.page(), "run: python docs/configuration.py"


@pytest.mark.parametrize("method", METHODS)
def test_every_key_is_on_that_page_and_has_a_meaning(configuration, method):
    page = configuration.PAGE.read_text(encoding="utf-8")
    for key, field in dotted_fields(config_class(method)):
        assert f"| `{key}` |" in page
        assert field.description, key


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "integer"),
        (bool | None, "true or false or null"),
        (Annotated[int, Field(ge=1, lt=5)], "integer at least 1, below 5"),
        (Literal["auto"] | Seconds, "`auto` or number above 0, at most 1e+09"),
        (FilePath | None, "path or null"),
        (Literal["a", "b"], "`a`, `b`"),
    ],
)
def test_types_are_put_into_words(configuration, annotation, text):
    assert configuration.words(annotation) == text


def _anchors(text: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere(root):
    pages = [*root.glob("*.md"), *root.glob("docs/**/*.md"), root / "benchmarks" / "README.md"]
    assert {"README.md", "CONTRIBUTING.md", "configuration.md"} <= {page.name for page in pages}
    broken = []
    for page in pages:
        text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            if not target.exists() or (anchor and anchor not in _anchors(target.read_text(encoding="utf-8"))):
                broken.append(f"{page.relative_to(root)}: {link}")
    assert broken == []


def test_the_contributors_page_names_targets_that_exist(root):
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    commands = re.findall(r"\bmake ((?:[a-z-]+ ?)+)", (root / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    named = {target for command in commands for target in command.split()}
    assert {"setup", "lint", "test-fast", "test"} <= named
    assert named <= targets


def test_every_page_is_in_the_index(root):
    index = (root / "docs" / "README.md").read_text(encoding="utf-8")
    linked = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", index)}
    docs = root / "docs"
    assert {page.relative_to(docs).as_posix() for page in docs.glob("**/*.md")} - {"README.md"} <= linked


def test_the_readme_is_short(root):
    assert len((root / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_pages_name_tests_that_exist(root):
    pages = [page for page in root.glob("docs/**/*.md") if page.name != "adding-a-method.md"]
    named = {name for page in pages for name in re.findall(r"\btest_\w+\.py", page.read_text(encoding="utf-8"))}
    assert len(named) > 20
    assert named <= {path.name for path in root.glob("tests/**/*.py")}


def test_the_page_for_authors_names_every_public_function(root):
    page = (root / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    functions = {name for name in methods.__all__ if name.islower()}
    assert len(functions) > 10
    assert functions <= set(re.findall(r"`(\w+)`", page))
