"""How much work a network does: its Mult-Adds (multiply-accumulates), beside what its paper prints.

Counted are convolutions, linear layers and matrix products, as papers do: no biases, activations,
normalisations or interpolations. A network runs on the meta device, where tensors have a shape and
no content, and every call of a function that multiplies tells its share.

Of HPINet, ``attention`` is query times key and weights times value, and the product that finds for
each patch the one most like it (0.04 to 1.3 G of 82 to 631). A2N weighs its branches by two linear
layers on a pooled image, 6,720 Mult-Adds in all; SRRAM's two are 1x1 convolutions here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sruplift.models import MODELS, count_parameters, create_model
from sruplift.models.layers import SuperResolver
from sruplift.published import PublishedSize, find_published_size

OUTPUT_SIZE = (720, 1280)
GIGA = 10**9

# Why a paper prints something else than its network has: (family, figure) -> reason.
DIFFERENCES = {
    ("maffsrn", "parameters"): "MAFFSRN's table cuts parameters off at thousands.",
    ("maffsrn", "mult_adds"): (
        "MAFFSRN's table leaves out the convolutions with weight normalisation; without them the"
        " count is the printed one, x3's cut off."
    ),
    ("srram", "parameters"): (
        "SRRAM was trained on three scales at once; with the last convolutions of the other two"
        " (2 x 1,731 parameters) the count is the printed one."
    ),
    ("hpinet", "parameters"): "HPINet's tables round parameters to ten thousands.",
    ("hpinet", "mult_adds"): (
        "HPINet's code, and ours, lets patches overlap by two pixels; its text does not, which"
        " makes 117.6 G. The printed number is neither."
    ),
}


@dataclass(frozen=True)
class MultAdds:
    """Mult-Adds for one image, by what makes them."""

    convolution: int = 0
    linear: int = 0
    attention: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.convolution + self.linear + self.attention


@dataclass(frozen=True)
class Complexity:
    """A network's size and work on an LR image of ``lr_size`` (height, width)."""

    model: str
    scale: int
    lr_size: tuple[int, int]
    parameters: int
    mult_adds: MultAdds
    paper: PublishedSize | None

    @property
    def notes(self) -> tuple[str, ...]:
        """Why the paper's figures differ from these, a sentence for each that does."""
        if self.paper is None:
            return ()
        thousands, giga = self.paper.parameters_k, self.paper.mult_adds_g
        differs = {
            "parameters": thousands not in (None, round(self.parameters / 1000)),
            "mult_adds": giga not in (None, round(self.mult_adds.total / GIGA, 1)),
        }
        family = self.model.partition("-")[0]
        return tuple(DIFFERENCES[family, figure] for figure in differs if differs[figure])


def measure_every_network() -> list[Complexity]:
    """``measure_complexity`` of every model at each of its scales."""
    return [
        measure_complexity(model, scale) for model, spec in MODELS.items() for scale in spec.scales
    ]


def measure_complexity(model: str, scale: int) -> Complexity:
    """Parameters and Mult-Adds at the papers' output of 1280 x 720 pixels, x3's from 426 x 240.

    The network pools over the whole image, as the papers count it.

    Raises:
        ValueError: there is no such model or scale.
    """
    height, width = (size // scale for size in OUTPUT_SIZE)
    with torch.device("meta"):
        network = create_model(model, scale).eval()
    return Complexity(
        model=model,
        scale=scale,
        lr_size=(height, width),
        parameters=count_parameters(network),
        mult_adds=count_mult_adds(network, height, width),
        paper=find_published_size(model, scale),
    )


def count_mult_adds(network: SuperResolver, height: int, width: int) -> MultAdds:
    """The Mult-Adds of ``network`` for one LR image of ``height`` x ``width`` pixels.

    It runs as it is: on the device where it lies (nothing is computed on the meta device), and in
    the mode it is in, of which ``eval`` is the one to count.
    """
    device = next(network.parameters()).device
    with torch.no_grad(), _Counter() as counter:
        network(torch.empty(1, 3, height, width, device=device))
    return MultAdds(**counter.counts)


class _Counter(TorchFunctionMode):
    """Adds up the Mult-Adds of every call, ``counts`` by the field of ``MultAdds``."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _RULES:
            kind, count = _RULES[func]
            self.counts[kind] = self.counts.get(kind, 0) + count(result, *args)
        return result


def _of_convolution(result: Tensor, _: Tensor, weight: Tensor, *__: object) -> int:
    return result.numel() * weight[0].numel()


def _of_product(result: Tensor, inputs: Tensor, *_: object) -> int:
    return result.numel() * inputs.shape[-1]


def _of_attention(result: Tensor, query: Tensor, key: Tensor, *_: object) -> int:
    """Of query with key, and of the weights with value."""
    return (query.numel() + result.numel()) * key.shape[-2]


_RULES: dict[Callable[..., Any], tuple[str, Callable[..., int]]] = {
    F.conv2d: ("convolution", _of_convolution),
    F.linear: ("linear", _of_product),
    F.scaled_dot_product_attention: ("attention", _of_attention),
    torch.matmul: ("attention", _of_product),
    Tensor.matmul: ("attention", _of_product),
    Tensor.__matmul__: ("attention", _of_product),
}
