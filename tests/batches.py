"""Results and reports that more than one test file makes, without a network."""

from __future__ import annotations

import dataclasses

from sruplift.files import Job
from sruplift.report import Report
from sruplift.upscale import UpscaleResult

PARAMETERS = {"model": "pan", "scale": 2, "weights_sha256": {"x2": "0" * 64}}


def done(job: Job) -> UpscaleResult:
    """What is told of ``job`` when its output is written."""
    return UpscaleResult(
        source=job.source,
        destination=job.destination,
        input_size=(10, 20),
        output_size=(20, 40),
        seconds=1.23456,
        device="cpu",
        precision="fp32",
        notes=("a note",),
    )


def finish(report: Report, job: Job, result: bytes, *, replace: bool = False) -> None:
    """Do ``job`` as ``run_batch`` does; its output is ``result``."""
    job = dataclasses.replace(job, replace=replace)
    report.begin(job)
    job.destination.write_bytes(result)
    report.add(job, done(job))
