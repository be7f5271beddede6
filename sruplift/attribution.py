"""Local attribution maps: which pixels of the input a part of the result was made from.

J. Gu and C. Dong, "Interpreting Super-Resolution Networks with Local Attribution Maps", CVPR 2021
(arXiv 2011.11036). A detector D tells how much structure the network F paints into a window: the
sum of the magnitudes of its result's gradients there. The input I is blurred, and the blur taken
back little by little: the path g(a) = w(sigma * (1 - a)) * I, with w a Gaussian kernel, leads from
the blurred picture, which tells the network nothing of fine structure, to I. What a pixel i did
for the detector is the integral along the path (integrated gradients)

    LAM_i = integral from 0 to 1 of  dD(F(g(a))) / dg(a)_i * dg(a)_i / da  da

so that all LAM_i add up to D(F(I)) - D(F(g(0))). The map is the absolute value of the sum over a
pixel's channels. Its Gini coefficient G tells how unevenly the pixels take part, and the diffusion
index, (1 - G) * 100, how evenly: the larger, the more pixels the network made use of.

The kernel's size, the number of steps, the gradient by differences to the next pixel and the sum
that stands for the integral (each step with the gradient at its end) are those of the authors'
demonstration program (X-Lowlevel-Vision/LAM_Demo). It adds 1e-7 of the largest value to all before
it takes the Gini coefficient; here nothing is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sruplift.errors import NumericalError

Network = nn.Module | Callable[[Tensor], Tensor]
# What blurring changes by less is flat but for rounding: a level of 16 bits is 15 times as much.
FLAT = 1e-6
NOTHING = "there is nothing to attribute: the picture is flat around the window"


@dataclass(frozen=True)
class Window:
    """A square of the result: its first row and column and its edge, in pixels of the result."""

    top: int
    left: int
    size: int

    def footprint(self, scale: int) -> tuple[int, int, int, int]:
        """The input's pixels that it covers: top, left, bottom, right, the last two exclusive."""
        bottom, right = self.top + self.size, self.left + self.size
        return self.top // scale, self.left // scale, -(-bottom // scale), -(-right // scale)


@dataclass(frozen=True)
class BlurPath:
    """The way from the blurred picture to the picture; the defaults are the published ones.

    Attributes:
        sigma: of the first, most blurred picture, in pixels of the input.
        steps: how many parts the way is cut into ("fold").
        radius: of the kernel, pixels; the authors' has an edge of 9.

    Raises:
        ValueError: a number that is not positive.
    """

    sigma: float = 1.2
    steps: int = 50
    radius: int = 4

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and self.steps > 0 and self.radius > 0):
            raise ValueError(f"sigma, steps and radius must be positive: {self}")

    def pictures(self, image: Tensor) -> Iterator[Tensor]:
        """``steps`` + 1 pictures of the shape of ``image``, the last one ``image`` itself."""
        for step in range(self.steps + 1):
            yield blurred(image, self.sigma * (1 - step / self.steps), self.radius)


@dataclass(frozen=True, eq=False)
class Attribution:
    """What the pixels of the input did for a window of the result.

    Attributes:
        values: (C, h, w) float64, in the detector's unit; negative where structure was taken away.
        sr: (C, H, W) float32, the result of the picture itself, not clamped.
        baseline: the detector's value for the blurred picture.
        target: the detector's value for the picture.
    """

    values: Tensor
    sr: Tensor
    baseline: float
    target: float

    @property
    def map(self) -> Tensor:
        """(h, w) float64, not negative: |sum over the channels|."""
        return self.values.sum(0).abs()

    @property
    def gini(self) -> float:
        """The Gini coefficient of the map, as ``gini`` defines it."""
        return gini(self.map)

    @property
    def diffusion_index(self) -> float:
        """(1 - G) * 100, from 0 (one pixel did all) to 100 (all did the same)."""
        return (1 - self.gini) * 100

    @property
    def explained(self) -> float:
        """The sum of all attributions over the detector's change: 1 but for the sum's coarseness.

        Raises:
            NumericalError: the detector did not change.
        """
        change = self.target - self.baseline
        if change == 0:
            raise NumericalError("the detector sees no difference between blurred and sharp")
        return float(self.values.sum()) / change


def attribute(
    network: Network,
    lr: Tensor,
    window: Window,
    path: BlurPath | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """The local attribution map of one window of ``network``'s result for ``lr``.

    Args:
        network: (1, C, h, w) -> (1, C, h * scale, w * scale) in float32, differentiable, in eval
            mode. Its parameters gather no gradients.
        lr: (C, h, w) float32 in [0, 1], on the network's device.
        window: must lie in the result.
        path: the published one by default.
        progress: is told (steps done, steps in all).

    Raises:
        NumericalError: the picture is flat, or a gradient is not finite.
    """
    path = path or BlurPath()
    # Sums of small differences: in float64, and on the CPU, since not every device has float64.
    picture = lr.detach().cpu().double()
    pictures = path.pictures(picture)
    before = next(pictures)
    if float((picture - before).abs().max()) < FLAT:
        raise NumericalError(NOTHING)
    baseline, _, sr = _probe(network, before.to(lr), window)
    target, values = baseline, torch.zeros_like(picture)
    for step, after in enumerate(pictures, start=1):
        target, gradient, sr = _probe(network, after.to(lr), window)
        values += gradient * (after - before)
        before = after
        if progress is not None:
            progress(step, path.steps)
    return Attribution(values, sr, baseline, target)


def _probe(network: Network, lr: Tensor, window: Window) -> tuple[float, Tensor, Tensor]:
    """The detector's value, its gradient for each value of ``lr`` (on the CPU), and the result."""
    with torch.enable_grad():
        batch = lr[None].requires_grad_()
        sr = network(batch)
        value = detect(sr, window)
        (gradient,) = torch.autograd.grad(value, batch)
    if not torch.isfinite(gradient).all():
        raise NumericalError("the network has gradients that are not finite: nothing is explained")
    return float(value.detach()), gradient[0].cpu().double(), sr.detach()[0].float().cpu()


def detect(sr: Tensor, window: Window) -> Tensor:
    """The gradient detector: the sum of |gradient| over the window's pixels and all channels.

    ``sr`` is (B, C, H, W). A pixel's gradient is the difference to the next one to the right and
    to the next one below, which for the window's last ones lie just outside. The picture's last row
    and column, which have no next, count for nothing.
    """
    rows = slice(window.top, window.top + window.size + 1)
    columns = slice(window.left, window.left + window.size + 1)
    part = sr[..., rows, columns]
    down, right = part.diff(dim=-2)[..., :-1], part.diff(dim=-1)[..., :-1, :]
    # Unlike that of a square root, the derivative of a norm is defined where it is zero: zero.
    return torch.linalg.vector_norm(torch.stack([down, right]), dim=0).sum()


def blurred(image: Tensor, sigma: float, radius: int) -> Tensor:
    """``image`` (C, h, w) under a Gaussian of ``sigma`` pixels cut off at ``radius``; 0: itself.

    Beyond the border the picture is mirrored, the border itself not repeated.
    """
    if sigma == 0:
        return image
    places = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-(places**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(image)
    padded = image[:, _mirrored(image.shape[-2], radius)][..., _mirrored(image.shape[-1], radius)]
    columns = F.conv2d(padded[:, None], kernel[None, None, :, None])
    return F.conv2d(columns, kernel[None, None, None, :])[:, 0]


def _mirrored(length: int, radius: int) -> Tensor:
    """Indices of an axis continued by ``radius`` on both sides: … 2 1 0 1 2 …"""
    period = max(2 * (length - 1), 1)
    places = torch.arange(-radius, length + radius).remainder(period)
    return torch.minimum(places, period - places)


def gini(values: Tensor) -> float:
    """The Gini coefficient of values that are not negative, of any shape.

    sum over i, j of |v_i - v_j| / (2 n^2 mean(v)): 0 where all are equal, 1 - 1/n where all but
    one are zero. Computed from the sorted values, which is the same.

    Raises:
        NumericalError: all are zero, so that there is nothing to share out.
    """
    flat = values.flatten().double().sort().values
    total = float(flat.sum())
    if total == 0:
        raise NumericalError(NOTHING)
    count = len(flat)
    ranks = torch.arange(1, count + 1, dtype=torch.float64, device=flat.device)
    return float(((2 * ranks - count - 1) * flat).sum()) / (count * total)


def reach(attributions: Tensor, footprint: tuple[int, int, int, int], share: float) -> int:
    """How far around a footprint one must go to find ``share`` of what a map (h, w) attributes.

    ``footprint`` is (top, left, bottom, right), the last two exclusive. In pixels of the input, the
    larger of the distances along rows and columns: 0 is the footprint itself.
    """
    top, left, bottom, right = footprint
    height, width = attributions.shape
    rows, columns = torch.arange(height), torch.arange(width)
    down = torch.maximum(top - rows, rows - bottom + 1).clamp(min=0)
    across = torch.maximum(left - columns, columns - right + 1).clamp(min=0)
    distance = torch.maximum(down[:, None], across[None, :]).flatten()
    sums = torch.zeros(int(distance.max()) + 1, dtype=torch.float64)
    sums.index_add_(0, distance, attributions.flatten().double())
    return int((sums.cumsum(0) < share * sums.sum()).sum())
