"""What other runtimes than PyTorch buy on this machine: ``sruplift upscale --backend``.

Runs one tile through PyTorch (the engine as it is), ONNX Runtime and OpenVINO, by turns, so that
what else the machine does falls on all alike, and prints medians, and the time divided by the first
row's of the same turn as a median and its quartiles: above 1 is slower. Needs ``sruplift[onnx]``
and ``sruplift[openvino]``; what is absent is left out. Times are of the process's CPU with one
thread, which a busy machine disturbs less, and of the clock with more.

    python benchmarks/backends.py [--model pan] [--scale 4] [--size 180x320 --size 512x512]
        [--turns 9] [--threads 1] [--forms]

``--forms`` compares what could be exported, instead: the network as it is, as ``sruplift.fuse``
rewrites it for PyTorch (in one strip), and as ``sruplift.exportable`` does, in fp32.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from sruplift.backends import through
from sruplift.engine import Engine, choose_precision
from sruplift.errors import SrupliftError
from sruplift.fuse import fused, pan
from sruplift.models import MODELS, create_model
from sruplift.weights import load_model

VARIANTS = (
    ("torch", "bf16"),
    ("torch", "fp32"),
    ("torch, plain", "fp32"),
    ("onnxruntime", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "fp32"),
)


def network(name: str, scale: int) -> nn.Module:
    try:
        return load_model(name, scale)
    except SrupliftError:
        torch.manual_seed(0)
        return create_model(name, scale).eval()


def engines(name: str, scale: int) -> dict[str, Engine]:
    made = {}
    for backend, precision in VARIANTS:
        if precision == "bf16" and choose_precision("auto", torch.device("cpu")) != "bf16":
            continue  # It would only be emulated.
        try:
            net, device, chosen = through(
                backend.partition(",")[0], network(name, scale), scale, "cpu", precision
            )
        except SrupliftError as error:
            print(f"  {backend} is left out: {error}")
            continue
        # As `sruplift upscale` runs it, and with PyTorch's convolutions.
        mode = "auto" if backend == "torch" else "off"
        made[f"{backend} {precision}"] = Engine(net, scale, device, chosen, compile_mode=mode)
    return made


class Plain(nn.Module):
    """Hides a network from ``exportable``, which leaves it as it is."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.scale = net, net.scale

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return self.net(lr)


def one_strip(run, x, **_):  # A graph has no loop over strips.
    yield slice(None), run(x)


def forms(name: str, scale: int) -> dict[str, Engine]:
    net = network(name, scale)
    pan.in_strips = one_strip
    every = {"exported": net, "as it is": Plain(net), "fused": Plain(fused(net))}
    made = {}
    for backend in ("onnxruntime", "openvino"):
        for form, each in every.items():
            ready, device, precision = through(backend, each, scale, "cpu", "fp32")
            made[f"{backend}, {form}"] = Engine(ready, scale, device, precision)
    return made


def measure(made: dict[str, Engine], lr: torch.Tensor, turns: int) -> dict[str, list[float]]:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(turns + 1):
        for name, engine in made.items():
            began = clock()
            engine.run(lr)
            if turn:
                seconds[name].append(clock() - began)
    return seconds


def report(title: str, seconds: dict[str, list[float]]) -> None:
    print(title)
    first = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratios = [b / a for a, b in zip(first, times, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        median = statistics.median(times) * 1000
        print(f"  {name:21} {median:8.1f} ms   {middle:5.2f}   {low:.2f} to {high:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--size", action="append", help="height x width of the tile")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--forms", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.model or ["pan"]:
        made = (forms if options.forms else engines)(name, options.scale)
        for size in options.size or ["180x320", "512x512"]:
            height, width = map(int, size.split("x"))
            title = f"{name} x{options.scale}, {width}x{height}, {options.threads} threads"
            report(title, measure(made, torch.rand(1, 3, height, width), options.turns))


if __name__ == "__main__":
    main()
