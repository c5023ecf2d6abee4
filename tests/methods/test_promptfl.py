import pytest
import torch

from promptfleet.methods.parts.prompts import encode_frozen, similarity_logits
from tests.fakes import tiny_examples
from tests.tiny_federation import ALL, equal, tiny_federation

COHORTS = [ALL, [0, 2], [1, 2, 3]]


def test_it_is_pfedmoap_without_experts_bit_for_bit():
    promptfl, without = (
        tiny_federation(name, **extra).run(COHORTS) for name, extra in [("promptfl", {}), ("pfedmoap", {"experts": 0})]
    )
    for ours, theirs in zip(promptfl.contexts, without.contexts, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(promptfl.server.state["text"], without.server.state["text"])


def test_every_entry_lies_within_the_cohorts():
    fed = tiny_federation("promptfl").run([ALL])
    downloads = fed.server.select(2, [0, 2])
    results = {i: fed.clients[i].train(2, {}, downloads[i]) for i in (0, 2)}
    contexts = torch.stack([one.upload.tensors["context"] for one in results.values()])
    assert fed.server.aggregate(2, results) == {}
    mean = fed.server.state["context"]
    assert (contexts.amin(0) - 1e-7 <= mean).all()
    assert (mean <= contexts.amax(0) + 1e-7).all()
    assert torch.allclose(mean, (6 * contexts[0] + 10 * contexts[1]) / 16, atol=1e-7)


def test_one_client_alone_keeps_its_own_prompt():
    fed = tiny_federation("promptfl")
    uploaded = fed.clients[1].train(1, {}, fed.download(1)).upload.tensors["context"]
    assert torch.equal(fed.run([[1]]).server.state["context"], uploaded)


def test_everybody_predicts_with_the_global_prompt_and_keeps_nothing():
    fed = tiny_federation("promptfl").run(COHORTS)
    features = tiny_examples(fed.world, 8, seed=77).images.features
    wanted = similarity_logits(fed.world, features, encode_frozen(fed.world, fed.server.state["context"]))
    for i in ALL:
        assert torch.equal(fed.logits(i), wanted)
        assert fed.privates[i] == {}


@pytest.mark.parametrize(("layout", "contexts"), [({}, 1), ({"class_specific_context": True}, 4)])
def test_a_prompt_goes_up_and_a_prompt_comes_down(layout, contexts):
    fed = tiny_federation("promptfl", **layout)
    report = fed.clients[0].train(1, {}, fed.download(0)).report
    assert report.uploaded_bytes == report.downloaded_bytes == 4 * contexts * 3 * 16


def test_an_update_leaves_the_download_as_it_was():
    fed = tiny_federation("promptfl")
    download = fed.download(0)
    before = {name: tensor.clone() for name, tensor in download.tensors.items()}
    fed.clients[0].train(1, {}, download)
    assert equal(download.tensors, before)
