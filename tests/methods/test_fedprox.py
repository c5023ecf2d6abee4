import pytest
import torch

from promptfleet.methods.fedprox import FedProx
from promptfleet.methods.parts.prompts import encode_contexts
from tests.fakes import tiny_task
from tests.tiny_federation import ALL, tiny_federation


def test_without_a_penalty_it_is_promptfl_bit_for_bit():
    fedprox = tiny_federation("fedprox", mu=0.0).run([ALL, [1, 2]])
    promptfl = tiny_federation("promptfl").run([ALL, [1, 2]])
    assert fedprox.sha256() == promptfl.sha256()


def test_the_gradient_differs_by_mu_times_the_distance():
    fed = tiny_federation("fedprox", mu=0.7).run([ALL])
    download, batch = fed.download(0), fed.examples(0)
    anchor = download.tensors["context"]
    context = (anchor + 0.01 * torch.linspace(-1, 1, anchor.numel()).view_as(anchor)).requires_grad_()
    text = encode_contexts(fed.world, context.unsqueeze(0))[0]
    task = tiny_task(fed.world, download=download)
    penalized = FedProx().loss(task, context, text, batch)
    (with_penalty,) = torch.autograd.grad(penalized, context, retain_graph=True)
    (without,) = torch.autograd.grad(FedProx().cross_entropy(task, text, batch), context)
    assert (with_penalty - without - 0.7 * (context - anchor)).abs().max() < 1e-6
    assert (with_penalty - without).abs().max() > 1e-3


@pytest.mark.parametrize("mu", [1.0, 10.0])
def test_a_penalty_keeps_prompts_nearer(mu):
    def moved(mu):
        fed = tiny_federation("fedprox", mu=mu)
        start = fed.server.state["context"]
        return (fed.run([[1]]).server.state["context"] - start).norm()

    assert moved(mu) < 0.95 * moved(0.0)
