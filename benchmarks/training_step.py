"""What ``sruplift.kernels`` buys a training step on this machine's CPU in float32.

Runs forward and backward of a network from random weights with PyTorch's convolutions and with
ours, by turns, so that what else the machine does falls on both alike, and prints medians and the
ratio of the times of a turn as a median and its quartiles. Freed memory stays with the process, as
in ``sruplift train``.

    python benchmarks/training_step.py [--model pan --model a2n] [--scale 4] [--patch 24]
        [--batch 8] [--turns 9] [--threads 1]
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from typing import Any

import torch
from torch import nn

from sruplift.datasets import cache_folder
from sruplift.heap import keep_freed_memory
from sruplift.kernels import TrainingKernels, load_kernels
from sruplift.models import create_model

MODELS = ["pan", "a2n", "maffsrn", "srram", "hpinet-s"]


def step_times(model: str, scale: int, patch: int, batch: int, turns: int) -> list[list[float]]:
    """Seconds of a step with PyTorch's convolutions, and with ours, for each turn."""
    kernels = TrainingKernels(load_kernels(cache_folder("compiled")))
    torch.manual_seed(0)
    net = create_model(model, scale)
    net.prepare_training()
    nn.utils.convert_conv2d_weight_memory_format(net, torch.channels_last)
    lr = torch.rand(batch, 3, patch, patch).contiguous(memory_format=torch.channels_last)
    hr = torch.rand(batch, 3, patch * scale, patch * scale)
    modes: list[Any] = [contextlib.nullcontext(), kernels]
    times = []
    for _ in range(turns + 1):
        turn = []
        for mode in modes:
            began = time.perf_counter()
            net.zero_grad()
            with mode:
                sr = net(lr)
            (sr - hr).abs().mean().backward()
            turn.append(time.perf_counter() - began)
        times.append(turn)
    return times[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--patch", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    for model in options.model or MODELS:
        times = step_times(model, options.scale, options.patch, options.batch, options.turns)
        plain, ours = (statistics.median(column) for column in zip(*times, strict=True))
        low, middle, high = statistics.quantiles([a / b for a, b in times], n=4)
        print(
            f"{model} x{options.scale}: {1e3 * plain:.0f} ms, with kernels {1e3 * ours:.0f} ms,"
            f" {middle:.2f} times as fast ({low:.2f} to {high:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
