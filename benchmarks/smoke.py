"""A short training run of every config: does the loss fall, does PSNR on a data set rise?

Patches and batches are made small, so that all of it takes minutes on a CPU; the rest of a config
stays as it is, but the schedule is pressed into 200 iterations.

    python benchmarks/smoke.py CONFIG… --data IMAGES --validation HR-IMAGES
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from sruplift.config import TrainConfig, read_config
from sruplift.loader import Validation, split_files
from sruplift.multiscale import by_scale
from sruplift.recipe import build_network
from sruplift.resize import bicubic
from sruplift.train import train


class Bicubic(nn.Module):
    """What a network has to beat."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, lr: Tensor) -> Tensor:
        return bicubic(lr, self.scale)


def shortened(name: str, options: argparse.Namespace) -> TrainConfig:
    settings = [f"iterations={options.iterations}", f"validate_every={options.iterations}"]
    config = read_config(name, [*settings, "log_every=20", "optimizer.warmup=10"])
    data = config.data.model_copy(update=small(config.data, options))
    stages = tuple(each.model_copy(update=small(each, options)) for each in config.stages)
    return config.model_copy(update={"data": data, "stages": stages}).with_data(
        [options.data], options.validation
    )


def small(part: object, options: argparse.Namespace) -> dict[str, int]:
    """``part``'s patch and batch size, no larger than asked for."""
    limits = {"patch_size": options.patch, "batch_size": options.batch}
    sizes = {key: getattr(part, key, None) for key in limits}
    return {key: min(size, limits[key]) for key, size in sizes.items() if size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    print("| config | loss: first, last 20 | PSNR: start, end | bicubic |")
    print("| --- | --- | --- | --- |")
    for name in options.configs:
        config = shortened(name, options)
        validation = Validation(config, split_files(config)[1], torch.device("cpu"))
        torch.manual_seed(config.seed)
        networks = by_scale(build_network(config).eval()).items()
        start = fmean(fmean(validation.psnr(net, scale)) for scale, net in networks)
        plain = fmean(fmean(validation.psnr(Bicubic(s), s)) for s in config.every_scale)
        with tempfile.TemporaryDirectory() as folder:
            result = train(config, Path(folder) / "run")
            rows = list(csv.DictReader((Path(folder) / "run" / "log.csv").open()))
        losses = [float(rows[index]["loss"]) for index in (0, -1)]
        print(
            f"| {name} | {losses[0]:.4f}, {losses[1]:.4f} | {start:.2f}, {result.best_psnr:.2f}"
            f" | {plain:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
