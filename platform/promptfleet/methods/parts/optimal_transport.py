"""Unbalanced optimal transport between the patches of an image and a few prompts, for many problems at once.

Source: Li, Huang, Wang, Shi: "Global and Local Prompts Cooperation via Optimal Transport for Federated Learning",
CVPR 2024 (arXiv:2403.00041). Per image and class, with M patches, N prompts, K = exp(-cost / epsilon):

    min_P <P, cost> - epsilon H(P)   with   P 1 <= 1/M per patch,   P^T 1 = mass/N per prompt

solved by P = diag(u) K diag(v) and the scaling iterations u = min(1/M / (K v), 1), v = mass/N / (K^T u). With a mass of
one the bound on patches can only hold as an equality, and these are Sinkhorn's.
"""

import torch
from torch import Tensor

TOLERANCE = 1e-6
_CHUNK = 2**20  # similarities that plans are made for at a time; a plan takes five times their memory


def transport_scores(
    patches: Tensor, text: Tensor, *, mass: float, epsilon: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Return sum(plan * similarity) ``[images, classes]`` and true for a finite plan, a few classes at a time.

    patches ``[images, patches, dim]`` and text ``[prompts, classes, dim]`` are unit norm. Gradients flow through the
    similarities alone. See ``transport_plans`` for the rest.
    """
    per_class = patches.shape[0] * patches.shape[1] * text.shape[0]
    scores, finite = [], []
    for part in text.split(max(1, _CHUNK // per_class), dim=1):
        similarity = (part.flatten(0, 1) @ patches.transpose(1, 2)).unflatten(1, part.shape[:2])
        plans, is_finite = transport_plans(similarity, mass=mass, epsilon=epsilon, iterations=iterations)
        scores.append((plans * similarity).sum(dim=(1, 3)))
        finite.append(is_finite)
    return torch.cat(scores, dim=1), torch.cat(finite, dim=1)


@torch.no_grad()
def transport_plans(similarity: Tensor, *, mass: float, epsilon: float, iterations: int) -> tuple[Tensor, Tensor]:
    """Return plans of the shape of ``similarity [batch, prompts, classes, patches]``, for the cost ``1 - similarity``.

    For each (image, class), every prompt gets exactly ``mass / prompts`` and, once converged, no patch gives more than
    ``1 / patches``. ``mass`` is in (0, 1]. Iterations end early when no patch can give more than that by a factor of
    ``1 + TOLERANCE``. Also returns ``finite [batch, classes]``: if it is false, the scaling left the range of floats
    (``epsilon`` far too small), and the plan is the uniform one, which is the solution for a large epsilon.

    Differs: the cost of each prompt is shifted by its smallest, which changes no plan and keeps the kernel from
    vanishing; the published code lets it underflow. Iterations end when all problems have converged, not their mean.
    They start after the published loop's first pass, so n of them are n + 1 published ones. With a mass of one the
    published bound u <= 1 slows convergence: 100 of its iterations stop short of Sinkhorn's plan, which is taken here.
    """
    prompts, patches = similarity.shape[1], similarity.shape[3]
    per_patch, per_prompt = 1 / patches, mass / prompts
    largest = 1.0 if mass < 1 else float("inf")
    kernel = torch.exp((similarity - similarity.amax(dim=3, keepdim=True)) / epsilon)
    v = per_prompt / kernel.sum(dim=3, keepdim=True)
    u, converged = None, None
    for _ in range(iterations):
        next_u = (kernel * v).sum(dim=1, keepdim=True).reciprocal_().mul_(per_patch).clamp_(max=largest)
        next_v = (kernel * next_u).sum(dim=3, keepdim=True).reciprocal_().mul_(per_prompt)
        growth = (next_v / v).max()  # a patch gives at most this many times 1 / patches
        if kernel.device.type == "cpu":
            u, v = next_u, next_v
            if float(growth) <= 1 + TOLERANCE:
                break
        else:  # asking a GPU would mean waiting for it in every iteration: converged problems stay as they are instead
            u = next_u if u is None else torch.where(converged, u, next_u)
            v = next_v if converged is None else torch.where(converged, v, next_v)
            now = growth <= 1 + TOLERANCE
            converged = now if converged is None else converged | now
    plans = u * kernel * v
    finite = torch.isfinite(plans).all(dim=3).all(dim=1)
    uniform = torch.full_like(plans, per_prompt / patches)
    return torch.where(finite[:, None, :, None], plans, uniform), finite
