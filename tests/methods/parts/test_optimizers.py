import pytest
import torch

from promptfleet.methods.parts.optimizers import SGD, Adam, AMSGrad

SETTINGS = [  # ours, torch's, and how both are made
    *[(SGD, torch.optim.SGD, {"lr": 0.3, "momentum": m, "weight_decay": d}) for m in (0, 0.9) for d in (0, 5e-4, 0.1)],
    (SGD, torch.optim.SGD, {"lr": 0.002, "momentum": 0.5, "weight_decay": 0.0}),
    (Adam, torch.optim.Adam, {"lr": 0.01, "betas": (0.9, 0.98), "eps": 1e-6}),
    (Adam, torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.2}),
]


def few_steps(make, steps=6):
    """Two tensors after some steps of the optimizer that ``make(parameters)`` gives, and the optimizer."""
    generator = torch.Generator().manual_seed(0)
    start = {"a": torch.randn(3, 5, generator=generator), "b": torch.randn(7, generator=generator)}
    target = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in start.items()}
    parameters = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    optimizer = make(parameters)
    for _ in range(steps):
        for parameter in parameters.values():
            parameter.grad = None
        sum(((p - target[name]) ** 2).sum() * p.exp().mean() for name, p in parameters.items()).backward()
        optimizer.step()
    assert not torch.equal(parameters["a"], start["a"])
    return {name: parameter.detach() for name, parameter in parameters.items()}, optimizer


@pytest.mark.parametrize(("ours", "theirs", "settings"), SETTINGS, ids=str)
def test_equals_torch_bit_for_bit(ours, theirs, settings):
    found, _ = few_steps(lambda parameters: ours(parameters, **settings))
    wanted, _ = few_steps(lambda parameters: theirs(list(parameters.values()), foreach=False, **settings))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_decoupled_weight_decay_is_that_of_adamw():
    settings = {"lr": 0.01, "weight_decay": 0.2}
    found, _ = few_steps(lambda parameters: Adam(parameters, decoupled=True, **settings))
    wanted, _ = few_steps(lambda parameters: torch.optim.AdamW(list(parameters.values()), foreach=False, **settings))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_two_steps_of_sgd_by_hand():
    parameter = torch.tensor([1.0], requires_grad=True)
    optimizer = SGD({"a": parameter}, lr=0.5, momentum=0.5, weight_decay=0.25)
    parameter.grad = torch.tensor([1.0])
    optimizer.step()
    assert parameter.item() == 1 - 0.5 * 1.25  # gradient + decay: 1 + 0.25
    parameter.grad = torch.tensor([0.0])
    optimizer.step()
    velocity = 0.5 * 1.25 + 0.25 * 0.375
    assert parameter.item() == 0.375 - 0.5 * velocity
    assert optimizer.state["velocity.a"].item() == velocity


def amsgrad_steps(gradients, **settings):
    parameter = torch.tensor([1.0], requires_grad=True)
    optimizer = AMSGrad({"a": parameter}, **settings)
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient])
        optimizer.step()
    return parameter.item(), optimizer.state


def test_the_first_step_of_amsgrad_has_no_correction_and_its_floor_is_eps():
    moved, _ = amsgrad_steps([0.5], lr=0.1, betas=(0.9, 0.999), eps=0.01)
    assert moved == pytest.approx(1 - 0.1 * 0.1 * 0.5 / (0.999 * 0.01**2 + 0.001 * 0.25) ** 0.5, rel=1e-6)
    tiny, _ = amsgrad_steps([1e-9], lr=0.1, betas=(0.0, 0.999), eps=1e-5)
    assert tiny == pytest.approx(1 - 0.1 * 1e-9 / 1e-5, abs=1e-7)


def test_amsgrad_never_forgets_a_large_gradient():
    _, state = amsgrad_steps([4.0, 0.0, 0.0], lr=0.1, betas=(0.9, 0.5))
    assert state["largest.a"].item() == pytest.approx(8.0)
    assert state["square.a"].item() == pytest.approx(2.0)


def test_with_a_frozen_square_amsgrad_is_plain_descent_at_lr_over_eps():
    moved, _ = amsgrad_steps([0.3, -0.2], lr=0.1, betas=(0.0, 1.0), eps=0.5)
    assert moved == pytest.approx(1 - 0.1 / 0.5 * (0.3 - 0.2))


def test_a_state_without_square_starts_it_as_the_largest():
    state = {"largest.a": torch.tensor([8.0]), "mean.a": torch.tensor([0.0])}
    _, state = amsgrad_steps([2.0], lr=0.1, betas=(0.9, 0.5), state=state)
    assert state["square.a"].item() == pytest.approx(0.5 * 8 + 0.5 * 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters, state: SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1, state=state),
        lambda parameters, state: Adam(parameters, lr=0.1, state=state),
        lambda parameters, state: AMSGrad(parameters, lr=0.1, state=state),
    ],
    ids=["sgd", "adam", "amsgrad"],
)
def test_one_that_is_given_a_state_continues_where_that_was_left(make):
    whole, _ = few_steps(lambda parameters: make(parameters, None), steps=5)

    class InTwoParts:
        def __init__(self, parameters):
            self.parameters, self.optimizer, self.steps = parameters, make(parameters, None), 0

        def step(self):
            if self.steps == 2:
                self.optimizer = make(self.parameters, {key: t.clone() for key, t in self.optimizer.state.items()})
            self.optimizer.step()
            self.steps += 1

    parts, _ = few_steps(InTwoParts, steps=5)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_step_clears_gradients_and_leaves_the_given_ones_alone():
    for make in (SGD, Adam, AMSGrad):
        parameter = torch.ones(2, requires_grad=True)
        gradient = torch.ones(2)
        parameter.grad = gradient
        make({"a": parameter}, lr=0.1, weight_decay=0.1).step()
        assert parameter.grad is None
        assert gradient.tolist() == [1, 1]


def test_a_tensor_without_a_gradient_stays_as_it_is():
    for make in (SGD, Adam, AMSGrad):
        frozen = torch.ones(2, requires_grad=True)
        optimizer = make({"a": frozen}, lr=0.1, weight_decay=0.5)
        optimizer.step()
        assert frozen.tolist() == [1, 1]
        assert optimizer.state == {}


def test_a_fresh_one_has_no_momentum():
    def second_step(optimizers):
        parameter = torch.tensor([1.0], requires_grad=True)
        for optimizer in optimizers({"a": parameter}):
            parameter.grad = torch.tensor([1.0])
            optimizer.step()
        return parameter.item()

    settings = {"lr": 0.1, "momentum": 0.9}
    kept = second_step(lambda parameters: [SGD(parameters, **settings)] * 2)
    fresh = second_step(lambda parameters: [SGD(parameters, **settings) for _ in range(2)])
    assert kept == pytest.approx(1 - 0.1 - 0.19)
    assert fresh == pytest.approx(0.8)
