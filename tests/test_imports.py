"""Imports between areas (see ``MAY_IMPORT``), checked on the source of every module, lazy imports included."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from promptfleet.cluster.fork_server.session import CLIENT_MODULES

FOUNDATION = {
    "assignments",
    "atomic_files",
    "class_texts",
    "command_line",
    "config",
    "config_types",
    "databases",
    "devices",
    "disks",
    "errors",
    "escaping",
    "imported",
    "job_environment",
    "job_output",
    "limits",
    "outages",
    "pickle_outline",
    "public_names",
    "seeding",
    "storage_address",
    "strict_json",
    "tensor_file",
    "terminal",
    "text_tables",
    "trial_records",
    "yaml_files",
}
SCIENCE = {"methods", "data", "clip"}
# Area -> areas of ours it may import, besides itself and the foundation. "" is promptfleet/__init__.py.
MAY_IMPORT = {
    **{name: set() for name in FOUNDATION},
    "": {"search", "federation", "storage"},
    "clip": set(),
    "data": set(),
    "figures": {"data"},
    "storage": set(),
    "cluster": {"storage", "data"},
    "methods": {"clip"},
    "features": {"cluster", "storage", *SCIENCE},
    "federation": {"features", "cluster", "storage", *SCIENCE},
    "tracking": {"federation", "features", "figures", "storage", *SCIENCE},
    "search": {"tracking", "federation", "features", "cluster", "figures", "storage", *SCIENCE},
    "comparison": {"search", "tracking", "federation", "features", "cluster", "figures", "storage", *SCIENCE},
    "pretraining": {"clip"},
    "jobs": {
        *("comparison", "pretraining", "search", "tracking", "federation", "features", "cluster", "figures", "storage"),
        *SCIENCE,
    },
}
# Part of an area -> parts of the same area that it may not import: the ones above it.
BELOW = {
    "methods/parts": {"methods/experts"},
    "federation/conditions": {"federation/checkpoints", "federation/on_ray"},
    "federation/checkpoints": {"federation/on_ray"},
}
# Package -> files, named from promptfleet/ or jobs/, that may import it.
MAY_USE = {
    "ray": re.compile(
        r"cluster/.*|features/ray_encoding\.py|federation/on_ray/.*|search/.*|pretraining/trainer\.py|jobs/.*"
    ),
    "mlflow": re.compile(r"tracking/.*"),
    "optuna": re.compile(r"search/.*"),
}


# Ray's private parts, which another version of Ray may change, and the one file that may use them.
RAY_PRIVATE = ("ray._private", "ray._raylet")
RAY_INTERNALS = "cluster/ray_internals.py"


def area_of(file: str) -> str:
    first = file.split("/")[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(tree: ast.AST, file: str) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of each import, relative ones made absolute, and of each use of ``ray._private``."""
    package = ["jobs"] if file.startswith("jobs/") else ["promptfleet", *file.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            if module in ("promptfleet", "ray"):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in RAY_PRIVATE:
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "import_module":
            yield from ((node.lineno, str(name.value)) for name in node.args[:1] if isinstance(name, ast.Constant))


def _climbs(file: str, name: str) -> bool:
    """Tell whether a part of an area imports a part above it."""
    part = "/".join(file.split("/")[:2])
    return any(name.startswith("promptfleet." + other.replace("/", ".")) for other in BELOW.get(part, ()))


def violations(source: str, file: str) -> list[str]:
    """``file:line: what is wrong`` for one module; ``file`` counts from promptfleet/, or starts with jobs/."""
    area = area_of(file)
    if area not in MAY_IMPORT:
        return [f"{file}:1: a new area: say in tests/test_imports.py what {area!r} may import"]
    allowed = {area, *FOUNDATION, *MAY_IMPORT[area]} if area not in FOUNDATION else FOUNDATION
    found = []
    for line, name in imported(ast.parse(source), file):
        top, _, rest = name.partition(".")
        if top == "promptfleet":
            target = {"__version__": area, "run_federation": "federation", "": area}.get(rest, rest.split(".")[0])
            if target not in allowed or _climbs(file, name):
                found.append(f"{file}:{line}: {area or 'promptfleet'} may not import {name}")
        elif top == "jobs":
            if area != "jobs":
                found.append(f"{file}:{line}: only jobs may import {name}")
        elif top in MAY_USE and not MAY_USE[top].fullmatch(file):
            found.append(f"{file}:{line}: {top} may not be imported here")
        elif name.startswith(RAY_PRIVATE) and file != RAY_INTERNALS:
            found.append(f"{file}:{line}: only {RAY_INTERNALS} may use {name}")
    return found


def modules(root):
    package = root / "platform" / "promptfleet"
    found = {path.relative_to(package).as_posix(): path for path in sorted(package.rglob("*.py"))}
    return found | {path.relative_to(root).as_posix(): path for path in sorted((root / "jobs").rglob("*.py"))}


def test_every_module_keeps_the_rules(root):
    files = modules(root)
    areas = {area_of(file) for file in files}
    assert areas == {*MAY_IMPORT}
    found = [text for file, path in files.items() for text in violations(path.read_text(encoding="utf-8"), file)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("errors.py", "import promptfleet.clip", "errors.py:1: errors may not import promptfleet.clip"),
        ("clip/a.py", "\nfrom promptfleet.data import b", "clip/a.py:2: clip may not import promptfleet.data"),
        ("clip/a.py", "from promptfleet import data", "clip/a.py:1: clip may not import promptfleet.data"),
        ("clip/a.py", "from promptfleet import run_federation", "may not import promptfleet.run_federation"),
        ("clip/a.py", "from ..methods.b import c", "clip/a.py:1: clip may not import promptfleet.methods.b"),
        ("clip/a.py", "from .. import methods", "clip/a.py:1: clip may not import promptfleet.methods"),
        ("methods/a.py", "def f():\n    import promptfleet.data", "methods/a.py:2: methods may not import"),
        ("methods/a.py", "importlib.import_module('promptfleet.search')", "methods may not import promptfleet.search"),
        ("federation/a.py", "import promptfleet.tracking.runs", "federation may not import promptfleet.tracking.runs"),
        ("tracking/a.py", "import promptfleet.search", "tracking may not import promptfleet.search"),
        ("pretraining/a.py", "import promptfleet.data", "pretraining may not import promptfleet.data"),
        ("search/a.py", "from jobs.tune import main", "only jobs may import jobs.tune"),
        ("federation/a.py", "import ray.util", "federation/a.py:1: ray may not be imported here"),
        ("storage/a.py", "import ray", "ray may not be imported here"),
        ("features/a.py", "import ray", "ray may not be imported here"),
        (
            "cluster/a.py",
            "from ray._private.node import Node",
            "may use ray._private.node",
        ),
        ("cluster/a.py", "from ray import _raylet", "only cluster/ray_internals.py may use ray._raylet"),
        (
            "search/a.py",
            "import ray\n\nray._private.x",
            "a.py:3: only cluster/ray_internals.py may use",
        ),
        ("search/a.py", "import mlflow", "mlflow may not be imported here"),
        (
            "tracking/figures.py",
            "def f():\n    import optuna",
            "tracking/figures.py:2: optuna may not be imported here",
        ),
        ("jobs/tune.py", "from mlflow import log_metric", "jobs/tune.py:1: mlflow may not be imported here"),
        ("cluster/a.py", "from promptfleet.methods import load_method", "cluster may not import promptfleet.methods"),
        (
            "federation/conditions/a.py",
            "import promptfleet.federation.on_ray.wire",
            "may not import promptfleet.federation.on_ray.wire",
        ),
        (
            "methods/parts/a.py",
            "import promptfleet.methods.experts.pool",
            "may not import promptfleet.methods.experts",
        ),
        ("extras/a.py", "", "a new area"),
    ],
)
def test_a_broken_rule_is_named(file, source, complaint):
    (found,) = violations(source, file)
    assert complaint in found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("yaml_files.py", "from promptfleet.errors import ConfigError"),
        ("__init__.py", "def f():\n    from promptfleet.federation.run import run_federation"),
        ("clip/a.py", "from . import tokens\nfrom .tokens import b\nfrom promptfleet.config import c"),
        ("tracking/a.py", "import mlflow\nfrom promptfleet import __version__"),
        ("search/a.py", "import optuna, ray.tune\nimport promptfleet.tracking"),
        ("federation/on_ray/actors.py", "import ray"),
        ("federation/on_ray/a.py", "import ray"),
        ("features/ray_encoding.py", "import ray"),
        ("cluster/ray_internals.py", "from ray._private.worker import global_worker"),
        ("jobs/tune.py", "import promptfleet.search, ray\nimport promptfleet.pretraining"),
        ("data/a.py", "import raylib, numpy as ray"),
    ],
)
def test_what_is_allowed_passes(file, source):
    assert violations(source, file) == []


def loaded_by(statement: str, heavy: list[str]) -> list[str]:
    """The modules of ``heavy`` that a new Python holds after ``statement``."""
    code = f"import json, sys; {statement}; print(json.dumps([name for name in {heavy!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_heavy_modules_are_seen_when_loaded():
    assert loaded_by("import pydantic", ["pydantic", "torch"]) == ["pydantic"]


def test_the_package_itself_is_light():
    heavy = ["torch", "ray", "mlflow", "optuna", "open_clip", "pydantic", "numpy", "typing"]
    assert loaded_by("import promptfleet", heavy) == loaded_by("pass", heavy) == []


def test_looking_up_a_method_is_light():
    assert loaded_by("import promptfleet.methods", ["torch", "ray", "mlflow", "optuna", "numpy"]) == []


@pytest.mark.slow
def test_a_client_process_loads_only_what_it_needs():
    heavy = ["ray.tune", "mlflow", "optuna", "open_clip", "torchvision", "sklearn", "matplotlib", "opacus"]
    heavy += ["torch._dynamo"]
    assert loaded_by(f"import {', '.join(CLIENT_MODULES)}", heavy) == []
