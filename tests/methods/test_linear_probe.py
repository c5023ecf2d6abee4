import pytest
import torch
import torch.nn.functional as F

from promptfleet.seeding import stream
from tests.fakes import tiny_examples
from tests.tiny_federation import ALL, tiny_federation


def test_it_starts_as_zero_shot_and_sends_nothing():
    probe, zero_shot = tiny_federation("linear_probe"), tiny_federation("zero_shot")
    assert torch.equal(probe.logits(2), zero_shot.logits(2))
    report = probe.clients[0].train(1, probe.privates[0], probe.download(0)).report
    assert (report.uploaded_bytes, report.downloaded_bytes) == (0, 0)


def test_it_is_torchs_sgd_on_multinomial_logistic_regression():
    fed = tiny_federation("linear_probe", head_lr=0.01).run([ALL])
    config, clip, examples = fed.world.config, fed.world.clip, fed.examples(1)
    head = clip.zero_shot_text.clone().requires_grad_()
    optimizer = torch.optim.SGD([head], lr=0.01, momentum=config.momentum, weight_decay=config.weight_decay)
    rng = stream(config.seed, "local_update", client=1, round_index=1)
    for _ in range(config.local_epochs):
        for batch in torch.from_numpy(rng.permutation(len(examples))).split(config.batch_size):
            optimizer.zero_grad()
            logits = clip.logit_scale * examples.images.features[batch] @ head.T
            F.cross_entropy(logits, examples.labels[batch]).backward()
            optimizer.step()
    assert torch.equal(fed.privates[1]["head"], head.detach())
    features = tiny_examples(fed.world, 8, seed=77).images.features
    assert torch.equal(fed.logits(1), clip.logit_scale * features @ head.detach().T)


@pytest.mark.parametrize("option", [{"head_lr": 0.1}, {"solo_epochs": 1}], ids=str)
def test_every_option_changes_the_result(option):
    usual, changed = (tiny_federation("linear_probe", **extra).run([ALL]).logits(0) for extra in ({}, option))
    assert not torch.allclose(usual, changed, atol=1e-4)
