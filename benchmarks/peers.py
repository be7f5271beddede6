"""How fast sruplift runs beside what others run the same network with, in one interleaved run.

Every contestant is a process of its own with the same weights (the released ones) and input; they
take turns, so that what else the machine does falls on all alike. Printed are the median time, and
the ratio to ours of the same round as a median with quartiles; and how far a contestant's pixels
are from plain PyTorch in float32. Contestants that cannot run say why. A network that has no
released weights runs with random ones.

    python -m venv peers
    peers/bin/pip install -c constraints.txt -r benchmarks/peers-requirements.txt -e .
    peers/bin/python benchmarks/peers.py [--model pan] [--scale 4] [--size 320x180]
        [--rounds 15] [--threads 2] [--only NAME --only NAME]
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sruplift.datasets import read_hr
from sruplift.engine import Engine, cpu_computes_bf16
from sruplift.errors import SrupliftError
from sruplift.heap import keep_freed_memory
from sruplift.importer import recognise
from sruplift.models import MODELS, create_model
from sruplift.models.layers import SuperResolver
from sruplift.weights import load_model

PHOTO = Path(__file__).parent.parent / "tests" / "images" / "bridge.png"
OURS, REFERENCE = "sruplift", "PyTorch fp32 NCHW"
# What a contestant prepares: a call that enlarges ``images`` pictures and gives the last result.
Call = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Prepared:
    """``call`` enlarges the picture ``images`` times and gives the last result (3, H, W)."""

    call: Call
    images: int = 1


@dataclass(frozen=True)
class Job:
    """What all contestants do: ``network`` on ``lr`` (1, 3, H, W)."""

    model: str
    scale: int
    lr: Tensor
    threads: int
    folder: Path

    def network(self) -> SuperResolver:
        """A fresh one, with the same weights in every process."""
        torch.manual_seed(0)
        try:
            network = load_model(self.model, self.scale)
        except (SrupliftError, ValueError):
            network = create_model(self.model, self.scale)
        return network.eval()

    def onnx_file(self) -> Path:
        path = self.folder / f"{os.getpid()}.onnx"
        with torch.no_grad():
            torch.onnx.export(
                self.network(),
                (self.lr,),
                path,
                input_names=["lr"],
                output_names=["sr"],
                dynamo=True,
                verbose=False,
                external_data=False,
            )
        return path


def picture(height: int, width: int) -> Tensor:
    """(1, 3, height, width) in [0, 1]: a photo, repeated where it is too small."""
    photo = read_hr(PHOTO) / 255
    down, across = -(-height // photo.shape[1]), -(-width // photo.shape[2])
    return photo.repeat(1, down, across)[None, :, :height, :width].contiguous()


def as_array(result: Tensor) -> np.ndarray:
    return result[0].float().numpy()


def ours(job: Job, mode: str) -> Prepared:
    keep_freed_memory()  # as the commands do
    # Pooling over the whole image, as all others do.
    engine = Engine(job.network(), job.scale, "cpu", compile_mode=mode, local=False)
    return Prepared(lambda: as_array(engine.run(job.lr)))


def eager(job: Job, layout: torch.memory_format, *, half: bool) -> Prepared:
    network = job.network().to(memory_format=layout)
    x = job.lr.contiguous(memory_format=layout)

    @torch.inference_mode()
    def call() -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return as_array(network(x))

    return Prepared(call)


def without_torchvision() -> None:
    """super-image's data sets import torchvision, whose wheel does not load beside a CPU PyTorch.

    Its networks do not use it.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("torchvision", "torchvision.transforms"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["torchvision.transforms"].transforms = None


def super_image(job: Job) -> Prepared:
    without_torchvision()
    from super_image import A2nConfig, A2nModel, PanConfig, PanModel

    theirs_of = {"pan": (PanModel, PanConfig), "a2n": (A2nModel, A2nConfig)}
    if job.model not in theirs_of:
        raise ValueError(f"it has no {job.model}")
    make, config = theirs_of[job.model]
    network = make(config(scale=job.scale)).eval()
    # Our names for its tensors, which are the same memory.
    theirs = recognise(network.state_dict(), "super-image").tensors
    for name, tensor in job.network().state_dict().items():
        theirs[name].copy_(tensor)

    @torch.no_grad()
    def call() -> np.ndarray:
        return as_array(network(job.lr))

    return Prepared(call)


def onnxruntime(job: Job) -> Prepared:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = job.threads
    session = ort.InferenceSession(
        str(job.onnx_file()), options, providers=["CPUExecutionProvider"]
    )
    feed = {"lr": job.lr.numpy()}
    return Prepared(lambda: session.run(None, feed)[0][0])


def openvino(job: Job, precision: str, streams: int) -> Prepared:
    import openvino as ov

    core = ov.Core()
    model = core.read_model(job.onnx_file())
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": job.threads,
        "NUM_STREAMS": streams,
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
    }
    compiled = core.compile_model(model, "CPU", settings)
    feed = job.lr.numpy()
    if streams == 1:
        request = compiled.create_infer_request()
        return Prepared(lambda: next(iter(request.infer({0: feed}).values()))[0])
    queue = ov.AsyncInferQueue(compiled, streams)
    images = 2 * streams
    results: list[np.ndarray] = []
    queue.set_callback(
        lambda request, _: results.append(request.get_output_tensor().data[0].copy())
    )

    def call() -> np.ndarray:
        results.clear()
        for _ in range(images):
            queue.start_async({0: feed})
        queue.wait_all()
        return results[-1]

    return Prepared(call, images)


def ncnn(job: Job, *, half: bool) -> Prepared:
    import ncnn as tencent
    import pnnx

    traced = job.folder / f"{os.getpid()}.pt"
    os.chdir(job.folder)  # pnnx leaves files where it runs.
    pnnx.export(job.network(), str(traced), job.lr, fp16=False)
    net = tencent.Net()
    net.opt.num_threads = job.threads
    net.opt.use_vulkan_compute = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = half
    net.load_param(str(traced.with_suffix("")) + ".ncnn.param")
    net.load_model(str(traced.with_suffix("")) + ".ncnn.bin")
    pixels = job.lr[0].numpy().copy()

    def call() -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", tencent.Mat(pixels))
        _, result = extractor.extract("out0")
        return np.array(result)

    return Prepared(call)


def contestants(job: Job) -> dict[str, Callable[[], Prepared]]:
    """By name; without those whose bf16 this processor would only emulate, for minutes."""
    last, contiguous = torch.channels_last, torch.contiguous_format
    every = {
        # As `sruplift upscale` runs it: "auto".
        OURS: lambda: ours(job, "auto"),
        "sruplift --compile on": lambda: ours(job, "on"),
        "sruplift --compile off": lambda: ours(job, "off"),
        "super-image": lambda: super_image(job),
        REFERENCE: lambda: eager(job, contiguous, half=False),
        "PyTorch fp32 channels_last": lambda: eager(job, last, half=False),
        "PyTorch bf16 channels_last": lambda: eager(job, last, half=True),
        "OpenVINO bf16": lambda: openvino(job, "bf16", 1),
        "OpenVINO bf16, two streams": lambda: openvino(job, "bf16", 2),
        "OpenVINO fp32": lambda: openvino(job, "f32", 1),
        "ONNX Runtime fp32": lambda: onnxruntime(job),
        "ncnn fp32": lambda: ncnn(job, half=False),
        "ncnn bf16": lambda: ncnn(job, half=True),
    }
    if cpu_computes_bf16():
        return every
    return {name: prepare for name, prepare in every.items() if "bf16" not in name}


def work(name: str, job: Job) -> None:
    """A contestant's process: prepares itself, then times one call for every line of stdin."""
    # Libraries print what they like; only the answers go to the real stdout.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(job.threads)
    try:
        prepared = contestants(job)[name]()
        result = prepared.call()
    except Exception as error:
        answers.write(f"failed {' '.join(f'{type(error).__name__}: {error}'.split())[:300]}\n")
        return
    np.save(job.folder / f"{os.getpid()}.npy", result)
    answers.write(f"ready {os.getpid()}.npy\n")
    for _ in sys.stdin:
        began = time.perf_counter()
        prepared.call()
        answers.write(f"{(time.perf_counter() - began) / prepared.images}\n")


class Contestant:
    """A contestant's process."""

    def __init__(self, name: str, options: argparse.Namespace, folder: Path) -> None:
        self.name = name
        arguments = ["--work", name, "--folder", str(folder), "--size", options.size]
        arguments += ["--model", options.model, "--scale", str(options.scale)]
        arguments += ["--threads", str(options.threads)]
        with (folder / f"{name}.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
                env={**os.environ, "OMP_NUM_THREADS": str(options.threads)},
            )
        self.seconds: list[float] = []
        answer = self._answer() or "failed it ended"
        self.ready = answer.startswith("ready ")
        self.said = answer.partition(" ")[2]

    def run(self, *, count: bool) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        seconds = float(self._answer())
        if count:
            self.seconds.append(seconds)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def decibels(result: np.ndarray, expected: np.ndarray) -> float:
    if result.shape != expected.shape:
        return float("nan")
    error = float(np.mean((result.astype(np.float64) - expected) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


def report(running: Sequence[Contestant], folder: Path) -> None:
    by_name = {each.name: each for each in running}
    base = by_name[OURS].seconds
    expected = np.load(folder / by_name[REFERENCE].said)
    print(f"{'':28}{'median':>10}{'/ ours':>9}   quartiles      dB to fp32")
    for each in running:
        ratios = [theirs / mine for theirs, mine in zip(each.seconds, base, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        close = decibels(np.load(folder / each.said), expected)
        line = f"{each.name:28}{1000 * statistics.median(each.seconds):7.1f} ms"
        line += f"{statistics.median(ratios):8.2f}x   {low:5.2f} to {high:5.2f} {close:8.1f}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pan", choices=list(MODELS))
    parser.add_argument("--size", default="320x180", help="width x height of the input")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", action="append", help="these contestants, and sruplift")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    if options.work:
        lr = picture(height, width)
        job = Job(options.model, options.scale, lr, options.threads, options.folder)
        work(options.work, job)
        return
    names = list(contestants(Job("", 0, torch.empty(0), 0, Path())))
    names = [n for n in names if not options.only or n in (OURS, REFERENCE, *options.only)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        running: list[Contestant] = []
        try:
            for name in names:
                each = Contestant(name, options, folder)
                if each.ready:
                    running.append(each)
                else:
                    each.stop()
                    print(f"{name}: {each.said}", flush=True)
            print(
                f"{options.model} x{options.scale}, {options.size}, {options.threads} threads",
                flush=True,
            )
            for turn in range(-2, options.rounds):
                for each in running:
                    each.run(count=turn >= 0)
                    time.sleep(0.05)
            report(running, folder)
        finally:
            for each in running:
                each.stop()


if __name__ == "__main__":
    main()
