"""Weights between those that a run began with and those that it ended with.

A straight line between the two keeps most of what the run taught, and most of what it cost
(Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv:2109.01903). Both are weights
that sruplift wrote. What is written says how much of each is in it.

    python benchmarks/training/mix.py BEFORE.safetensors AFTER.safetensors SHARE OUT.safetensors

SHARE, from 0 to 1, is AFTER's. Which share: the one that does best on validation images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sruplift.weights import identify, save_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("share", type=float)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    before = identify(options.before)
    after = identify(options.after, before.model, before.scale)
    if before.others_source or after.others_source:
        parser.error("weights that stem from those of others are not for a release")
    mixed = {
        name: torch.lerp(before.tensors[name].float(), tensor.float(), options.share)
        for name, tensor in after.tensors.items()
    }
    metadata = {**after.metadata, "mixed": f"{options.share:g} of it, the rest what it began with"}
    save_weights(
        options.out,
        mixed,
        model=after.model,
        scale=after.scale,
        metadata=metadata,
        dtype=torch.float32,
    )


if __name__ == "__main__":
    main()
