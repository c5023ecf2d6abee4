import pytest
import torch

from promptfleet.config import build
from promptfleet.errors import ConfigError
from promptfleet.methods.fedper import FedPerConfig
from promptfleet.methods.parts.prompts import encode_frozen
from promptfleet.methods.parts.side_by_side import run_alone
from tests.fakes import tiny_task
from tests.tiny_federation import ALL, tiny_federation

COHORTS = [ALL, ALL]


def test_without_private_tokens_it_is_promptfl():
    fedper = tiny_federation("fedper", private_tokens=0).run([ALL, [0, 2]])
    promptfl = tiny_federation("promptfl").run([ALL, [0, 2]])
    for ours, theirs in zip(fedper.history, promptfl.history, strict=True):
        assert torch.equal(ours["shared"], theirs["context"])
    assert torch.allclose(fedper.logits(1), promptfl.logits(1), rtol=0, atol=1e-5)


def test_with_private_tokens_only_it_is_coop_and_sends_nothing():
    fedper, coop = (
        tiny_federation(name, **extra).run(COHORTS) for name, extra in [("fedper", {"private_tokens": 3}), ("coop", {})]
    )
    for i in ALL:
        assert torch.equal(fedper.privates[i]["private"], coop.privates[i]["context"])
        assert torch.allclose(fedper.logits(i), coop.logits(i), rtol=0, atol=1e-5)
    report = fedper.clients[0].train(3, fedper.privates[0], fedper.download(0)).report
    assert (report.uploaded_bytes, report.downloaded_bytes) == (0, 0)


@pytest.mark.parametrize(("layout", "contexts"), [({}, 1), ({"class_specific_context": True}, 4)])
@pytest.mark.parametrize("private", [1, 2])
def test_shared_tokens_are_all_that_travels(layout, contexts, private):
    fed = tiny_federation("fedper", private_tokens=private, **layout)
    report = fed.clients[0].train(1, fed.privates[0], fed.download(0)).report
    assert report.uploaded_bytes == report.downloaded_bytes == 4 * contexts * (3 - private) * 16


def test_private_tokens_are_trained_and_untouched_by_the_server():
    fed = tiny_federation("fedper", private_tokens=1).run([ALL])
    kept = {i: fed.privates[i]["private"] for i in ALL}
    start = fed.server.state["private"]
    assert all(not torch.equal(kept[i], start) for i in ALL)
    assert not torch.equal(kept[0], kept[1])
    fed.run([[1]])
    assert torch.equal(fed.privates[0]["private"], kept[0])
    assert torch.equal(fed.server.state["private"], start)


def test_a_prompt_is_the_shared_tokens_then_the_private_ones():
    fed = tiny_federation("fedper", private_tokens=1).run([[0, 1]])
    download = fed.download(2)
    for i, own in [(0, fed.privates[0]["private"]), (2, fed.server.state["private"])]:
        task = tiny_task(fed.world, fed.privates[i], download, fed.examples(i))
        personal = run_alone(fed.world, fed.method.personalize(task), "personalize")
        together = torch.cat([fed.server.state["shared"], own])
        assert torch.equal(personal["text"], encode_frozen(fed.world, together))


def test_more_private_tokens_than_tokens_are_refused():
    with pytest.raises(ConfigError, match=r"^f: private_tokens=9 exceeds prompt_length=8$"):
        build(FedPerConfig, {"private_tokens": 9}, source="f")
    assert FedPerConfig(prompt_length=5).private_tokens == 2
