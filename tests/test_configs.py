"""The federations in configs/: the paper's settings, and those on digits."""

import re

import pytest

from promptfleet.comparison.reading import parse_methods, parse_seeds, read_comparison
from promptfleet.config import flatten
from promptfleet.data.datasets import load_dataset
from promptfleet.data.samples import Samples
from promptfleet.federation.partitioning import partition_for
from promptfleet.federation.run import run_federation
from promptfleet.federation.settings import read_federation_config
from promptfleet.methods import METHODS
from promptfleet.search.spec import read_sweep
from promptfleet.yaml_files import read_yaml
from tests.samples import SAMPLES, needs_samples

FEW_SHOT = {"backbone": "RN50", "clients": 10, "rounds": 10, "participation": 1.0, "experts": 9, "kind": "disjoint"}
FEW_SHOT_DATASETS = ("oxford_flowers", "oxford_pets", "food101", "caltech101", "dtd")
CIFAR = {"backbone": "RN50", "clients": 100, "rounds": 120, "participation": 0.1, "experts": 9, "kind": "dirichlet"}
DOMAINS = {"backbone": "ViT-B-16", "rounds": 25, "kind": "domain_dirichlet", "alpha": 0.3}
# arXiv:2410.10114: tables 1 to 4 and their settings in table 5.
PAPER = {
    **{name: {**FEW_SHOT, "shots": 16} for name in FEW_SHOT_DATASETS},
    **{name: {**CIFAR, "alpha": 0.5} for name in ("cifar10", "cifar100")},
    "domainnet": {**DOMAINS, "clients": 6 * 5, "participation": 0.25, "experts": 19},
    "office_caltech10": {**DOMAINS, "clients": 4 * 5, "participation": 0.5, "experts": 9},
}
TRAINING = {
    "prompt_lr": 0.002,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "local_epochs": 5,
    "batch_size": 32,
    "prompt_length": 16,
    "gate_lr": 0.01,
    "gate_heads": 8,
    "gate_width": 128,
    "lambda": 0.5,
}


WIDER = {"backbone.name": "ViT-B-16"}
FIFTH = {"partition.held_out_clients": 0.2}
HALF = {**WIDER, "partition.new_classes": 0.5}
OTHERS = {**WIDER, "evaluation.transfer": ["oxford_flowers", "oxford_pets", "food101", "dtd"]}
# by protocol and dataset: in what a federation differs from the paper's
PROTOCOLS = {
    "base_to_new": dict.fromkeys(FEW_SHOT_DATASETS, HALF),
    "cross_dataset": {"caltech101": OTHERS},
    "leave_domain_out": {
        "domainnet": {"clients": 5 * 5, "partition.held_out_domain": "sketch"},
        "office_caltech10": {"clients": 3 * 5, "partition.held_out_domain": "dslr"},
    },
    "unseen_clients": dict.fromkeys(("cifar10", "cifar100"), FIFTH),
}


def files(root, folder):
    return {path.stem: path for path in sorted((root / "configs" / folder).glob("*.yaml"))}


def commands(path):
    """The command lines in a file's header."""
    header = re.sub(r"\\\n#", "", path.read_text().split("\n\n")[0])
    return re.findall(r"python (jobs/\S+) (.+)", header)


def test_there_is_a_file_for_each_of_the_papers_datasets(root):
    assert set(files(root, "paper")) == set(PAPER)


@pytest.mark.parametrize("dataset", PAPER)
def test_the_papers_figures(root, dataset):
    path = files(root, "paper")[dataset]
    config, values = read_federation_config(path), read_yaml(path)
    flat = {**config.to_dict(), **config.to_dict()["partition"], "backbone": config.backbone.name}
    expected = {**PAPER[dataset], **TRAINING, "dataset": dataset, "method": "pfedmoap"}
    assert {key: flat[key] for key in expected} == expected
    assert config.backbone.pretrained == "openai"
    assert config.gating_temperature == pytest.approx(1 / 10)
    assert set(TRAINING) <= set(values), "said in the file, not left to a default that may change"
    spec = read_sweep(root / "search_spaces" / "gating.yaml", config=path)
    trial = spec.config({key: parameter.extremes()[0] for key, parameter in spec.space.items()})
    assert (trial.dataset, trial.rounds, trial.lambda_, trial.experts) == (dataset, config.rounds, 0.5, 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_is_the_papers_federation_but_for_what_it_tests(root, protocol):
    assert {path.parent.name for path in (root / "configs" / "paper").glob("*/*")} == set(PROTOCOLS)
    found = files(root, f"paper/{protocol}")
    assert set(found) == set(PROTOCOLS[protocol])
    for dataset, path in found.items():
        config, paper = (
            flatten(read_federation_config(one).to_dict()) for one in (path, files(root, "paper")[dataset])
        )
        assert config == {**paper, **PROTOCOLS[protocol][dataset]}


@pytest.mark.parametrize("folder", ["paper", "digits", *(f"paper/{protocol}" for protocol in PROTOCOLS)])
def test_the_commands_in_the_headers_are_right(root, folder):
    for path in files(root, folder).values():
        found = commands(path)
        assert len(found) == 2, path
        for job, arguments in found:
            assert job == "jobs/train.py"
            flag, file, *sets = arguments.split()
            assert (flag, root / file) == ("--config", path)
            read_federation_config(root / file, [text for text in sets if text != "--set"])


def test_a_comparison_has_values_for_every_method_that_learns(root):
    (path,) = files(root, "comparisons").values()
    for job, arguments in commands(path):
        assert job == "jobs/compare.py"
        flag, file, _, methods, _, seeds, *_ = arguments.split()
        assert (flag, root / file) == ("--config", path)
        read_comparison(path, methods=parse_methods(methods), seeds=parse_seeds(seeds))
    assert read_yaml(path)["methods"].keys() == METHODS.keys() - {"zero_shot"}


@pytest.mark.slow
def test_the_settings_on_digits_are_possible_and_differ(root):
    found, datasets = set(), {}
    for path in files(root, "digits").values():
        config = read_federation_config(path)
        dataset = datasets.setdefault(config.dataset, load_dataset(config.dataset, "."))
        found.add(partition_for(config, Samples.of_dataset(dataset)).fingerprint())
    assert len(found) == len(files(root, "digits")) == 9


@pytest.mark.slow
@needs_samples
def test_the_papers_office_setting_runs_on_a_sample(root, tmp_path):
    changes = ["backbone.name=glyph-clip", "backbone.pretrained=null", "rounds=1", "local_epochs=1"]
    places = [f"data.root={SAMPLES}", f"storage.path={tmp_path}", "runtime.backend=local"]
    config = read_federation_config(files(root, "paper")["office_caltech10"], [*changes, *places])
    result = run_federation(config)
    (report,) = result.rounds
    assert len(report.cohort) == 10
    assert result.domain_names == ["amazon", "caltech", "dslr", "webcam"]
    held = [[domain for domain, count in enumerate(client.domain_counts) if count] for client in result.clients]
    assert held == [[client // 5] for client in range(20)]
    assert 0 < result.test_accuracy < 1
    assert sum(client.num_test for client in result.clients) == 138, "all of the published test part"
