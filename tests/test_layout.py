"""The repository's own shape: the source root named platform/, and the lock of versions."""

import platform
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+!]+( ; [^#]+)?")


def test_source_root_is_not_a_package(root):
    assert (root / "platform" / "promptfleet" / "__init__.py").is_file()
    assert not (root / "platform" / "__init__.py").exists(), "it would hide Python's own module 'platform'"


@pytest.mark.parametrize(
    "arguments",
    [["-c", "import platform; print(platform.system())"], ["-m", "platform"], ["-m", "pytest", "--version"]],
    ids=["-c", "-m platform", "-m pytest"],
)
@pytest.mark.parametrize("python_path", [None, "."], ids=["plain", "root on PYTHONPATH"])
def test_pythons_platform_works_from_the_root(root, monkeypatch, arguments, python_path):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if python_path:
        monkeypatch.setenv("PYTHONPATH", python_path)
    done = subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "pytest" in arguments or done.stdout.startswith(platform.system())


def lock_lines(root):
    lines = (root / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_lock_holds_plain_pins_and_names_no_host(root):
    lines = lock_lines(root)
    assert len(lines) > 50
    assert [line for line in lines if not PIN.fullmatch(line)] == []
    text = (root / "requirements.lock").read_text(encoding="utf-8")
    assert re.findall(r"https?:|file:|--(?:extra-)?index-url|--find-links", text) == []


def direct_dependencies(root):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for text in [*project["dependencies"], *(text for extra in extras for text in extra)]]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_every_direct_dependency_has_one_fitting_pin(root, python):
    wanted = direct_dependencies(root)
    assert len(wanted) > 10
    target = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    pins = {}
    for pin in map(Requirement, lock_lines(root)):
        if pin.marker is None or pin.marker.evaluate(target):
            pins.setdefault(canonicalize_name(pin.name), []).append(next(iter(pin.specifier)).version)
    for dependency in wanted:
        found = pins.get(canonicalize_name(dependency.name), [])
        assert len(found) == 1, f"requirements.lock pins {dependency.name} {len(found)} times: run make lock"
        assert dependency.specifier.contains(found[0]), f"{dependency} is not met by {found[0]}: run make lock"
