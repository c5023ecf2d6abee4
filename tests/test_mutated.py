"""Whatever is written into a file or behind --set: it is accepted, or refused in one line that says why.

PROMPTFLEET_EXAMPLES=10000 tries so many of each instead of the few that a usual run has time for.
"""

import os

import pytest
from hypothesis import HealthCheck, given, settings

from promptfleet.cluster.nodes import Node
from promptfleet.config import dotted_keys
from promptfleet.data.datasets import load_dataset
from promptfleet.data.samples import Samples
from promptfleet.errors import PromptfleetError
from promptfleet.federation.partitioning import partition_for
from promptfleet.federation.resources import plan_shares
from promptfleet.federation.settings import federation_config, read_federation_config
from promptfleet.methods.pfedmoap import PFedMoAPConfig
from promptfleet.search.spec import read_sweep
from promptfleet.search.study import SweepStudy
from promptfleet.search.sweep import plan_sweep
from tests.mutated import CONFIGS, SPACES, assignments, documents, refused_in_one_line

EXAMPLES = int(os.environ.get("PROMPTFLEET_EXAMPLES", "100"))
KEYS = sorted(dotted_keys(PFedMoAPConfig))
NODES = [Node(cpus=2.0, gpus=0.0)]
many = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
pytestmark = pytest.mark.timeout(60 + 10 * EXAMPLES)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("mutated") / "file.yaml"


@pytest.fixture(scope="module")
def digits():
    return Samples.of_dataset(load_dataset("digits", "data"))


@many
@given(text=documents(CONFIGS), sets=assignments(KEYS))
def test_a_configuration_can_be_run_or_is_refused(file, digits, text, sets):
    file.write_bytes(text)
    try:
        config = read_federation_config(file, sets)
        plan_shares(config, NODES)
        if config.dataset == "digits":
            partition_for(config, digits)
    except PromptfleetError as error:
        refused_in_one_line(error)
    else:
        assert federation_config(config.to_dict()) == config


@pytest.mark.slow
@many
@given(text=documents(SPACES), sets=assignments(KEYS))
def test_a_search_file_can_be_run_or_is_refused(file, text, sets):
    file.write_bytes(text)
    try:
        spec = read_sweep(file, sets)
        plan_sweep(spec, NODES)
    except PromptfleetError as error:
        refused_in_one_line(error)
    else:
        (file.parent / "study.db").unlink(missing_ok=True)
        study = SweepStudy(file.parent, spec.space, spec.settings, spec.base_config().rounds, spec.first_params())
        spec.config(study.next_proposal().params)
