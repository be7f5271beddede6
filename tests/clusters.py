"""Images, containers and batches that the tests of ``sruplift.cluster`` share."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from sruplift.batch import pixel_parameters
from sruplift.cluster.places import Place, find_place
from sruplift.cluster.planning import ClusterOptions, Plan, make_plan
from sruplift.cluster.work import Outcome, do_partition
from sruplift.files import TEMPLATE
from sruplift.outputs import Naming
from sruplift.upscaler import UpscaleOptions, Upscaler


def encoded(seed: int = 0, kind: str = "PNG") -> bytes:
    """A picture of 10x8 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 10, 3), np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def fill(address: str | Path, files: dict[str, bytes]) -> Place:
    """The place at ``address`` with these files."""
    place = find_place(str(address))
    for name, data in files.items():
        place.write(name, data)
    return place


class Batch:
    """A batch without Ray: its plan, and its partitions done here."""

    def __init__(self, source: object, output: object, weights: Path, **given: Any) -> None:
        upscale = {
            name: given.pop(name)
            for name in ("overwrite", "quality", "only_if_smaller", "width")
            if name in given
        }
        scale = None if "width" in upscale else 2
        self.options = ClusterOptions(
            str(source),
            str(output),
            Naming("pan", scale, given.pop("suffix", None), given.pop("template", TEMPLATE), "x2"),
            UpscaleOptions(scale=scale, weights=weights, device="cpu", **upscale),
            **given,
        )
        self.parameters = pixel_parameters(self.options.upscale)
        self.upscaler = Upscaler(scale=scale, weights=weights, device="cpu", **upscale)

    def plan(self, workers: int = 1) -> Plan:
        return make_plan(self.options, self.parameters, workers)

    def do(self, plan: Plan) -> list[Outcome]:
        facts = (self.options, self.parameters, self.upscaler)
        return [do_partition(each, *facts) for each in plan.partitions]
