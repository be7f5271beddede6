"""What rewriting a network for inference buys on this machine.

Runs a network as it is, rewritten (``sruplift.fuse``) and with ``sruplift.kernels``, by turns, so
that what else the machine does falls on all alike, and prints medians, and the ratio to the first
row's time of the same turn as a median and its quartiles. With weights from ``sruplift weights``,
where there are any, else random ones. Times are of the process's CPU with one thread, which a busy
machine disturbs less, and of the clock with more. Networks that pool do so around each pixel, as in
``sruplift upscale``, and freed memory stays with the process, as in the commands.

    python benchmarks/fuse.py [--model pan --model a2n] [--scale 4] [--size 180x320] [--turns 9]
        [--threads 1] [--profile]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from sruplift.datasets import cache_folder
from sruplift.engine import cpu_computes_bf16
from sruplift.errors import CompilerError, SrupliftError
from sruplift.fuse import fused
from sruplift.fuse.compiled import with_kernels
from sruplift.fuse.programs import has_programs, in_programs
from sruplift.heap import keep_freed_memory
from sruplift.kernels import Arithmetic, load_kernels
from sruplift.models import MODELS, create_model
from sruplift.weights import load_model

BF16 = torch.bfloat16


def network(name: str, scale: int) -> nn.Module:
    try:
        model: nn.Module = load_model(name, scale)
    except (SrupliftError, ValueError):
        torch.manual_seed(0)
        model = create_model(name, scale)
    if model.needs.window is not None:
        model.window = model.needs.window
    return model.eval()


def variants(model: nn.Module, lr: Tensor) -> dict[str, Callable[[], Tensor]]:
    last = torch.channels_last
    eager_last = copy.deepcopy(model).to(memory_format=last)
    quick = fused(model).to(memory_format=last)
    lr_last = lr.contiguous(memory_format=last)

    def run(net: nn.Module, x: Tensor, half: bool) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with torch.inference_mode(), torch.autocast("cpu", BF16, enabled=half):
                return net(x)

        return call

    every = {
        "fp32 NCHW": run(model, lr, False),
        "fp32 channels_last": run(eager_last, lr_last, False),
        "fp32 channels_last fused": run(quick, lr_last, False),
    }
    if cpu_computes_bf16():
        every = {
            "bf16 channels_last": run(eager_last, lr_last, True),
            "bf16 channels_last fused": run(quick, lr_last, True),
            **every,
        }
    try:
        kernels = load_kernels(cache_folder("compiled"))
    except CompilerError as error:
        print(f"without kernels: {error}")
        return every
    every["fp32 kernels"] = run(with_kernels(fused(model), kernels), lr_last, False)
    if has_programs(quick):
        for half in (False, True)[: 1 + kernels.multiplies_half]:
            programs = in_programs(fused(model), Arithmetic(kernels, half))
            every[f"{'bf16' if half else 'fp32'} programs"] = run(programs, lr_last, half)
    return every


def measure(calls: dict[str, Callable[[], Tensor]], turns: int) -> dict[str, list[float]]:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            began = clock()
            call()
            if turn:
                seconds[name].append(clock() - began)
    return seconds


def report(title: str, seconds: dict[str, list[float]]) -> None:
    print(title)
    first = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(first, times, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        median = statistics.median(times) * 1000
        print(f"  {name:26} {median:8.1f} ms   {middle:5.2f}x   {low:.2f} to {high:.2f}")


def show_profile(call: Callable[[], Tensor]) -> None:
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        call()
    averages = sorted(recorded.key_averages(), key=lambda event: -event.self_cpu_time_total)
    for event in averages[:12]:
        print(f"    {event.key:36} {event.self_cpu_time_total / 1000:8.1f} ms  {event.count:5}")


def main() -> None:
    keep_freed_memory()  # as the commands do
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--size", default="180x320", help="height x width of the LR image")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--profile", action="store_true", help="self CPU time by kernel")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    height, width = map(int, options.size.split("x"))
    some = [name for name, spec in MODELS.items() if options.scale in spec.scales]
    for name in options.model or some:
        lr = torch.rand(1, 3, height, width)
        calls = variants(network(name, options.scale), lr)
        title = f"{name} x{options.scale}, {width}x{height}, {options.threads} threads"
        report(title, measure(calls, options.turns))
        if options.profile:
            for variant in (next(iter(calls)), list(calls)[-1]):
                print(f"  profile of {variant}")
                show_profile(calls[variant])


if __name__ == "__main__":
    main()
