"""Optimizers that PyTorch lacks in the form that training needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Coefficients of the quintic iteration whose fixed points are singular values near one.
# Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
# An orthogonal update is rescaled to the root mean square of a typical Adam update, so that both
# halves of the optimizer take learning rates of one kind (J. Liu et al., "Muon is Scalable for
# LLM Training", 2025, section 2.2).
UPDATE_RMS = 0.2


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz for hidden layers, Adam for the rest.

    A kernel (out, in, k, k) is updated as the matrix (out, in * k * k), the matrix (out, in) of a
    linear layer as it is. Other parameters, and those from or to 3 channels or fewer (an image, a
    depthwise convolution), go to Adam.

    Args:
        parameters: the network's parameters.
        learning_rate: of the orthogonalised updates (their root mean square is 0.2 times this).
        adam_learning_rate: of the parameters that Adam updates.
        momentum: Nesterov momentum of the orthogonalised updates.
        betas: of Adam.
        weight_decay: of the orthogonalised weights, apart from the gradient, as AdamW's. An update
            is as long in directions that the data hardly use as in others, and nothing else makes
            weights shorter there (section 2.2 of the same).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        *,
        adam_learning_rate: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        everything = list(parameters)
        hidden = [p for p in everything if is_hidden_weight(p)]
        rest = [p for p in everything if not is_hidden_weight(p)]
        groups = [
            {"params": hidden, "lr": learning_rate, "orthogonal": True},
            {"params": rest, "lr": adam_learning_rate, "orthogonal": False},
        ]
        defaults = {"momentum": momentum, "betas": betas, "epsilon": epsilon}
        defaults["weight_decay"] = weight_decay
        super().__init__([group for group in groups if group["params"]], defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """State of a run that is older than an option."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("weight_decay", 0.0)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            if group["orthogonal"]:
                self._step_orthogonal(parameters, group)
            else:
                self._step_adam(parameters, group)
        return loss

    def _step_orthogonal(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta: list[Tensor] = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
        if group["weight_decay"]:
            everything: list[Tensor] = list(parameters)
            torch._foreach_mul_(everything, 1 - group["lr"] * group["weight_decay"])
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for parameter, update in zip(parameters, updates, strict=True):
            matrix = update.flatten(1)
            by_shape.setdefault(tuple(matrix.shape), []).append((parameter, matrix))
        for shape, members in by_shape.items():
            weights = [weight for weight, _ in members]
            directions = orthogonalise(torch.stack([matrix for _, matrix in members]))
            step_size = group["lr"] * UPDATE_RMS * max(shape) ** 0.5
            steps = [d.reshape(w.shape) for d, w in zip(directions, weights, strict=True)]
            torch._foreach_add_(weights, steps, alpha=-step_size)

    def _step_adam(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = 0
                state["mean"] = torch.zeros_like(parameter)
                state["square"] = torch.zeros_like(parameter)
            state["step"] += 1
        states = [self.state[p] for p in parameters]
        means: list[Tensor] = [state["mean"] for state in states]
        squares: list[Tensor] = [state["square"] for state in states]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        denominators = torch._foreach_div(squares, [1 - beta2 ** s["step"] for s in states])
        torch._foreach_sqrt_(denominators)
        torch._foreach_add_(denominators, group["epsilon"])
        sizes = [-group["lr"] / (1 - beta1 ** s["step"]) for s in states]
        weights: list[Tensor] = list(parameters)
        torch._foreach_addcdiv_(weights, means, denominators, sizes)


def is_hidden_weight(parameter: Tensor) -> bool:
    """Whether a parameter is a convolution's kernel or a linear layer's matrix between features."""
    return parameter.ndim in (2, 4) and min(parameter.shape[0], parameter.shape[1]) > 3


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: (N, rows, columns) -> the same shape.

    Singular values come out between about 0.7 and 1.2, which is all that the optimizer needs.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    # Each step is x <- f x with f = a + b g + c g g, g = x x'. All f and g are polynomials of the
    # first g and commute, so that the next g is f g f, and the long x is multiplied only once.
    gram = x @ x.mT
    factor = None
    for _ in range(NEWTON_SCHULZ_STEPS):
        f = torch.baddbmm(b * gram, gram, gram, alpha=c)
        f.diagonal(dim1=-2, dim2=-1).add_(a)
        factor = f if factor is None else f @ factor
        gram = f @ gram @ f
    x = x if factor is None else factor @ x
    return x.mT if tall else x


class AdamP(torch.optim.Optimizer):
    """Adam that does not lengthen weights of which only the direction matters.

    The length of a weight that is normalised afterwards has no effect on the loss, but momentum
    makes it grow, and each step turns the weight less. The gradient of such a weight is at right
    angles to it: it is told by that, and loses the part of its update that points along it.
    Source: B. Heo et al., "AdamP: Slowing Down the Slowdown for Momentum Optimizers on
    Scale-invariant Weights", ICLR 2021, algorithm 2.

    Args:
        parameters: the network's parameters.
        learning_rate: as Adam's, like ``betas`` and ``epsilon``.
        delta: a weight of n values is taken to be scale-invariant where the cosine between its
            gradient and itself is below ``delta / sqrt(n)``.
        weight_decay: apart from the gradient, as AdamW's.
        decay_ratio: how much of it scale-invariant weights get.
        nesterov: look a step of momentum ahead.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        delta: float = 0.1,
        weight_decay: float = 0.0,
        decay_ratio: float = 0.1,
        nesterov: bool = False,
    ) -> None:
        defaults = {"lr": learning_rate, "betas": betas, "epsilon": epsilon, "delta": delta}
        defaults |= {"weight_decay": weight_decay, "decay_ratio": decay_ratio, "nesterov": nesterov}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, weight: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        update = self._adam(weight, gradient, group)
        decay = weight.new_tensor(group["lr"] * group["weight_decay"])
        if weight.ndim > 1:
            update, invariant = without_radial_part(update, weight, gradient, group["delta"])
            decay = torch.where(invariant, decay * group["decay_ratio"], decay)
        if group["weight_decay"]:
            weight.mul_(1 - decay)
        weight.sub_(update, alpha=group["lr"])

    def _adam(self, weight: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """What Adam would subtract at a learning rate of 1."""
        beta1, beta2 = group["betas"]
        state = self.state[weight]
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(weight)
            state["square"] = torch.zeros_like(weight)
        state["step"] += 1
        mean: Tensor = state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        if group["nesterov"]:
            mean = mean.lerp(gradient, 1 - beta1)
        denominator = (state["square"] / (1 - beta2 ** state["step"])).sqrt_()
        return mean / denominator.add_(group["epsilon"]) / (1 - beta1 ** state["step"])


def without_radial_part(
    update: Tensor, weight: Tensor, gradient: Tensor, delta: float
) -> tuple[Tensor, Tensor]:
    """The update less its part along a scale-invariant weight, and whether the weight is one.

    Each output channel is judged by itself, and where not all of them are scale-invariant, the
    layer as a whole. There is no ``if``, which would wait for the device at each parameter.
    """
    result, invariant = update, torch.zeros((), dtype=torch.bool, device=update.device)
    for rows in (1, weight.shape[0]):  # the channels have the last word
        w, g, u = (tensor.reshape(rows, -1) for tensor in (weight, gradient, update))
        found = F.cosine_similarity(w, g).abs().max() < delta / w.shape[1] ** 0.5
        direction = F.normalize(w)
        tangential = u - direction * (direction * u).sum(1, keepdim=True)
        result = torch.where(found, tangential.reshape(update.shape), result)
        invariant = invariant | found
    return result, invariant
