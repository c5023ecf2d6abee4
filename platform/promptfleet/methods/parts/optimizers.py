"""Optimizers over named tensors: SGD, Adam and AMSGrad.

SGD and Adam give the bits of ``torch.optim.SGD``, ``Adam`` and ``AdamW`` on one tensor at a time. They are not
torch's own: the first use of ``torch.optim`` imports torch's compiler, 79 MB and 1.3 s of CPU in every client process.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor


class Optimizer(ABC):
    """Optimizer of leaf tensors, in place from their ``grad``; a tensor without a gradient stays as it is.

    ``state`` are the optimizer's own tensors as ``KIND.NAME``, with NAME from ``parameters``. ``step`` adds those that
    are missing and changes the others in place, so an optimizer that is given a state continues from it, and a state
    can be sent or kept like any other. Without one it starts fresh, as it should in each local update.
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, lr: float, state: dict[str, Tensor] | None = None):
        self.parameters = dict(parameters)
        self.lr = lr
        self.state = {} if state is None else state

    @torch.no_grad()
    def step(self) -> None:
        """Apply one update and clear the gradients."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                self._update(name, parameter, parameter.grad)
                parameter.grad = None

    @abstractmethod
    def _update(self, name: str, parameter: Tensor, gradient: Tensor) -> None:
        """Move one parameter in place; ``gradient`` must not change."""

    def _kept(self, kind: str, name: str, start: Tensor) -> Tensor:
        """Return the state's tensor of that kind, ``start`` if there is none yet."""
        return self.state.setdefault(f"{kind}.{name}", start)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and weight decay. State: ``velocity``."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        state: dict[str, Tensor] | None = None,
    ):
        super().__init__(parameters, lr=lr, state=state)
        self._momentum, self._weight_decay = momentum, weight_decay

    def _update(self, name: str, parameter: Tensor, gradient: Tensor) -> None:
        gradient = gradient.add(parameter, alpha=self._weight_decay)
        velocity = self._kept("velocity", name, gradient)
        if velocity is not gradient:
            velocity.mul_(self._momentum).add_(gradient)
        parameter.add_(velocity, alpha=-self.lr)


class Adam(Optimizer):
    """Adam (arXiv:1412.6980). State: ``steps``, and the means of gradients ``mean`` and of their squares ``square``.

    Weight decay is added to the gradient or, with ``decoupled``, shrinks the parameter itself (AdamW,
    arXiv:1711.05101).
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        state: dict[str, Tensor] | None = None,
    ):
        super().__init__(parameters, lr=lr, state=state)
        self._betas, self._eps, self._weight_decay, self._decoupled = betas, eps, weight_decay, decoupled

    def _update(self, name: str, parameter: Tensor, gradient: Tensor) -> None:
        if self._decoupled:
            parameter.mul_(1 - self.lr * self._weight_decay)
        elif self._weight_decay:
            gradient = gradient.add(parameter, alpha=self._weight_decay)
        beta1, beta2 = self._betas
        steps = int(self._kept("steps", name, torch.tensor(0)).add_(1))
        mean = self._kept("mean", name, torch.zeros_like(gradient)).lerp_(gradient, 1 - beta1)
        square = self._kept("square", name, torch.zeros_like(gradient))
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (square.sqrt() / (1 - beta2**steps) ** 0.5).add_(self._eps)
        parameter.addcdiv_(mean, scale, value=-self.lr / (1 - beta1**steps))


class AMSGrad(Optimizer):
    """AMSGrad (Reddi, Kale, Kumar, ICLR 2018, Algorithm 2), where a step size never grows.

    State: ``mean``, ``square`` and the largest square so far, ``largest``; the latter two start at ``eps`` squared,
    which bounds the step: there is no ``eps`` in the denominator, and no correction of the first steps. Where a state
    has no ``square``, that starts as ``largest``.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        state: dict[str, Tensor] | None = None,
    ):
        super().__init__(parameters, lr=lr, state=state)
        self._betas, self._eps, self._weight_decay = betas, eps, weight_decay

    def _update(self, name: str, parameter: Tensor, gradient: Tensor) -> None:
        gradient = gradient.add(parameter, alpha=self._weight_decay)
        beta1, beta2 = self._betas
        mean = self._kept("mean", name, torch.zeros_like(gradient))
        largest = self._kept("largest", name, torch.full_like(gradient, self._eps**2))
        square = self._kept("square", name, largest.clone())
        mean.mul_(beta1).add_(gradient, alpha=1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        torch.maximum(largest, square, out=largest)
        parameter.addcdiv_(mean, largest.sqrt(), value=-self.lr)
