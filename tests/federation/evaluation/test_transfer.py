"""Cross-dataset transfer: prompts trained on digits are tested on a small dataset of other classes."""

import numpy as np
import pytest
import torch

import promptfleet
from promptfleet.data.dataset import Part
from promptfleet.errors import ConfigError
from promptfleet.federation.evaluation.foreign_sets import foreign_sets
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.prepare import prepare
from promptfleet.federation.rounds import Federation
from promptfleet.federation.worlds import other_world_of
from promptfleet.methods.parts.prompts import encode_frozen
from tests.samples import write_dtd

NAME = "test/transfer/dtd"


@pytest.fixture(scope="module")
def transfer_config(few_shot_config, tmp_path_factory):
    """Digits and, under the same root, a DTD with 20 test images of five classes."""
    root = tmp_path_factory.mktemp("data")
    write_dtd(root, classes=("cross", "eight", "line", "seven", "two"), per_part=4)
    evaluation = {"transfer": ["dtd"], "sets": {"global": "never", "others": "never"}}

    def make(**values):
        common = {"method": "promptfl", "data": {"root": str(root)}, "evaluation": evaluation, "rounds": 1}
        return few_shot_config(**{**common, "runtime": {"backend": "local"}, **values})

    return make


@pytest.fixture(scope="module")
def both(transfer_config):
    return prepare(transfer_config())


@pytest.fixture
def run(transfer_config, both):
    def run(**values):
        config = transfer_config(**values)
        federation = Federation(config, both, LocalFleet(both))
        while federation.rounds_done < config.rounds:
            federation.run_round()
        return federation.result()

    return run


def share_right(other, text):
    store, indices = other.test_part()
    return np.mean((store.features[indices] @ text.numpy().T).argmax(axis=1) == store.labels[indices])


def test_the_prompt_goes_before_the_names_of_the_other_dataset(run, both, transfer_config):
    other, result, zero_shot = both.others["dtd"], run(prompt_lr=0.1), run(method="zero_shot")
    world = other_world_of(transfer_config(), both.clip, "dtd", other)
    expected = share_right(other, encode_frozen(world, result.server["context"]))
    assert result.accuracy[NAME].mean == pytest.approx(expected)
    assert [client.accuracy[NAME] for client in result.clients] == [pytest.approx(expected)] * 3
    reference = share_right(other, other.zero_shot_text)
    assert result.zero_shot[NAME].mean == zero_shot.accuracy[NAME].mean == pytest.approx(reference)
    assert "val/transfer/dtd" not in result.accuracy
    assert len(other.test_part()[1]) == 20
    assert result.partition_sha256 == run(evaluation={}).partition_sha256


def test_only_test_samples_are_read(transfer_config, both):
    (found,) = foreign_sets(
        transfer_config(), both.clip, both.class_names, both.open_store(), np.array([]), both.others
    )
    assert set(found.store.official[found.indices]) == {Part.TEST}
    assert found.world.class_names == ("cross", "eight", "line", "seven", "two")
    assert found.world.config.dataset == "dtd"


def test_testing_on_it_changes_nothing_else_and_clients_may_be_batched(run):
    common, alone = {"method": "pfedmoap", "rounds": 2}, {"backend": "local", "batch_steps": False}
    runs = [run(**common), run(**common, evaluation={}, runtime=alone), run(**common, runtime=alone)]
    assert len({result.state_sha256 for result in runs}) == 1
    assert runs[0].accuracy == runs[2].accuracy
    assert NAME in runs[0].accuracy.keys() - runs[1].accuracy.keys()
    assert runs[0].accuracy["test/local"] == runs[1].accuracy["test/local"]


def test_a_method_that_cannot_shows_no_accuracy_and_the_reason(run, transfer_config):
    result = run(method="linear_probe")
    assert NAME not in result.accuracy
    assert NAME in result.zero_shot
    (event,) = result.rounds[0].events
    assert str(event).startswith("evaluate: method linear_probe has parameters for each class that it was trained on; ")
    asked = {"transfer": ["dtd"], "sets": {"transfer": "each"}}
    with pytest.raises(
        ConfigError, match=r"^evaluation\.sets\.transfer=each: method linear_probe has .*; set it to auto"
    ):
        prepare(transfer_config(method="linear_probe", evaluation=asked))


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"transfer": ["dtd", "digits"]}, r"should name each dataset once, and not dataset=digits"),
        ({"transfer": ["dtd", "dtd"]}, r"evaluation\.transfer=\['dtd', 'dtd'\] should name each dataset once"),
        (
            {"sets": {"transfer": "each"}},
            r"evaluation\.sets\.transfer=each needs evaluation\.transfer, such as \[dtd\]",
        ),
        ({"transfer": "dtd"}, r"evaluation\.transfer: "),
    ],
)
def test_what_cannot_be_meant_is_one_line(small_config, evaluation, message):
    with pytest.raises(ConfigError, match=message):
        small_config(evaluation=evaluation)


@pytest.mark.ray
def test_actors_give_the_same_accuracies(ray_session, run, transfer_config):
    """Both held-out clients are of one actor, so one of them is evaluated as a guest of the other actor."""
    partition = {"new_classes": 0.5, "held_out_clients": 2}
    common = {"method": "pfedmoap", "clients": 4, "seed": 0, "experts": 1, "partition": partition}
    local = run(**common, runtime={"backend": "local", "threads_per_client": 1})
    actors = promptfleet.run_federation(transfer_config(**common, runtime={"backend": "ray", "clients_per_actor": 2}))
    assert {"test/new", "test/unseen_clients_tuned", NAME} <= actors.accuracy.keys()
    assert [client.id for client in actors.clients if client.held_out] == [2, 3]
    assert actors.accuracy == local.accuracy
    assert actors.zero_shot == local.zero_shot
    assert actors.state_sha256 == local.state_sha256
    assert torch.equal(actors.server["context"], local.server["context"])
