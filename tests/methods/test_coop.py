import pytest
import torch

from promptfleet.methods import config_class
from promptfleet.methods.parts.prompts import encode_frozen, similarity_logits
from tests.fakes import tiny_client, tiny_examples
from tests.tiny_federation import ALL, equal, tiny_federation


def test_a_client_does_not_notice_what_others_hold():
    fed, other = tiny_federation("coop"), tiny_federation("coop")
    for i in (0, 2, 3):
        other.clients[i] = tiny_client(i, other.method, other.world, train=tiny_examples(other.world, 5, seed=50 + i))
    fed.run([ALL, ALL])
    other.run([ALL, ALL])
    assert equal(fed.privates[1], other.privates[1])
    assert not torch.equal(fed.privates[2]["context"], other.privates[2]["context"])
    assert torch.equal(fed.logits(1), other.logits(1))


def test_no_bytes_go_either_way():
    fed = tiny_federation("coop").run([ALL])
    report = fed.clients[0].train(2, fed.privates[0], fed.download(0)).report
    assert (report.uploaded_bytes, report.downloaded_bytes) == (0, 0)


def test_everybody_starts_from_one_prompt_and_goes_on_from_its_own():
    fed = tiny_federation("coop")
    start = fed.server.state
    assert torch.equal(fed.logits(0), fed.logits(3))
    fed.run([ALL])
    assert fed.server.state is start
    scrambled = {**fed.privates[1], "context": fed.privates[1]["context"] * -1}
    ours, theirs = (
        fed.clients[1].train(2, private, fed.download(1)).private for private in (fed.privates[1], scrambled)
    )
    assert not torch.allclose(ours["context"], theirs["context"], atol=1e-3)
    features = tiny_examples(fed.world, 8, seed=77).images.features
    wanted = similarity_logits(fed.world, features, encode_frozen(fed.world, fed.privates[1]["context"]))
    assert torch.allclose(fed.logits(1), wanted, atol=1e-5)


def test_one_round_is_promptfls_local_update():
    coop, promptfl = (tiny_federation(name).run([[2]]) for name in ("coop", "promptfl"))
    assert torch.equal(coop.privates[2]["context"], promptfl.server.state["context"])


@pytest.mark.parametrize(("budget", "rounds"), [(0, [0, 0, 0]), (3, [2, 3, 3]), (6, [2, 4, 6])])
@pytest.mark.parametrize("method", ["coop", "linear_probe"])
def test_training_ends_with_the_budget(method, budget, rounds):
    fed = tiny_federation(method, solo_epochs=budget)
    (trained,) = {"context", "head"} & fed.privates[0].keys()
    for done in rounds:
        before = fed.privates[0]
        fed.run([[0]])
        assert fed.privates[0]["epochs"] == done
        if before["epochs"] == budget and before["epochs"] > 0:
            assert torch.equal(fed.privates[0][trained], before[trained])


@pytest.mark.parametrize(
    ("values", "wanted"),
    [({"rounds": 10}, 30), ({"rounds": 10, "participation": 0.2}, 6), ({"participation": 0.01}, 1)],
)
def test_the_budget_is_by_default_that_of_the_other_methods(values, wanted):
    assert config_class("coop").model_validate(values).solo_epochs == wanted
