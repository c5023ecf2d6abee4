import pytest
import torch

from promptfleet.methods.parts.optimizers import SGD


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 5e-4, 0.1])
@pytest.mark.parametrize("lr", [0.002, 0.3])
def test_equals_torch_bit_for_bit(lr, momentum, weight_decay):
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(3, 5, generator=generator), torch.randn(7, generator=generator)]
    target = [torch.randn(tensor.shape, generator=generator) for tensor in start]
    results = []
    for optimizer_class in (SGD, torch.optim.SGD):
        parameters = [tensor.clone().requires_grad_() for tensor in start]
        optimizer = optimizer_class(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
        for _ in range(6):
            if optimizer_class is torch.optim.SGD:
                optimizer.zero_grad()
            sum(((p - t) ** 2).sum() * p.exp().mean() for p, t in zip(parameters, target, strict=True)).backward()
            optimizer.step()
        results.append([parameter.detach() for parameter in parameters])
    ours, theirs = results
    assert not torch.equal(ours[0], start[0])
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_two_steps_by_hand():
    parameter = torch.tensor([1.0], requires_grad=True)
    optimizer = SGD([parameter], lr=0.5, momentum=0.5, weight_decay=0.25)
    parameter.grad = torch.tensor([1.0])
    optimizer.step()
    assert parameter.item() == 1 - 0.5 * 1.25  # gradient + decay: 1 + 0.25
    parameter.grad = torch.tensor([0.0])
    optimizer.step()
    velocity = 0.5 * 1.25 + 0.25 * 0.375
    assert parameter.item() == 0.375 - 0.5 * velocity


def test_step_clears_gradients_and_leaves_the_given_ones_alone():
    parameter = torch.ones(2, requires_grad=True)
    gradient = torch.ones(2)
    parameter.grad = gradient
    optimizer = SGD([parameter], lr=0.1, momentum=0.9, weight_decay=0.1)
    optimizer.step()
    assert parameter.grad is None
    assert gradient.tolist() == [1, 1]


def test_a_fresh_one_has_no_momentum():
    def second_step(optimizers):
        parameter = torch.tensor([1.0], requires_grad=True)
        for optimizer in optimizers(parameter):
            parameter.grad = torch.tensor([1.0])
            optimizer.step()
        return parameter.item()

    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    kept = second_step(lambda parameter: [SGD([parameter], **settings)] * 2)
    fresh = second_step(lambda parameter: [SGD([parameter], **settings) for _ in range(2)])
    assert kept == pytest.approx(1 - 0.1 - 0.19)
    assert fresh == pytest.approx(0.8)
