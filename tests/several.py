"""Processes of one training run on loopback, told who they are as a launcher tells them.

They are forked from a server that has imported PyTorch already: each by itself takes seconds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from sruplift.cli.main import run
from sruplift.config import build_config
from sruplift.train import train

# As long as a busy machine may take for what takes seconds.
LIMIT = 240
# Where there is a GPU, two processes could not share it.
PLAIN = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

CONTEXT = multiprocessing.get_context("forkserver")
# Optimizers import Dynamo when they are made.
CONTEXT.set_forkserver_preload(["sruplift.cli.main", "sruplift.train", "torch._dynamo"])


class Member:
    """A process of a run."""

    def __init__(self, process: ForkServerProcess, messages: Path) -> None:
        self.process = process
        self._messages = messages

    def end(self, seconds: float = LIMIT) -> tuple[int | None, str]:
        """How it ended (``None``: not within ``seconds``), and what it wrote to stderr."""
        self.process.join(seconds)
        return self.process.exitcode, self._messages.read_text()


@contextmanager
def started(
    target: Callable[..., None], arguments: Sequence[object], folder: Path, count: int = 2
) -> Iterator[list[Member]]:
    """``target`` as processes 0 to ``count - 1`` of a run; none outlives the block."""
    folder.mkdir(exist_ok=True)
    said = [folder / f"stderr{rank}.txt" for rank in range(count)]
    run = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
    run["MASTER_PORT"] = free_port()
    processes = []
    for rank in range(count):
        variables = {**run, "RANK": rank, "LOCAL_RANK": rank}
        work = (target, arguments, variables, said[rank])
        processes.append(CONTEXT.Process(target=_begin, args=work))
    try:
        for process in processes:
            process.start()
        yield [Member(*pair) for pair in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.join()


def command_line(*arguments: str) -> None:
    """The ``sruplift`` command."""
    sys.argv = ["sruplift", *arguments]
    run()


def train_each(runs: dict[Path, dict[str, Any]]) -> None:
    """Each config in turn, in one connection, to its folder; ``{rank}`` is the process's."""
    for out, values in runs.items():
        text = json.dumps(values).replace("{rank}", os.environ["RANK"])
        train(build_config(json.loads(text)), out)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _begin(
    target: Callable[..., None],
    arguments: Sequence[object],
    variables: dict[str, object],
    messages: Path,
) -> None:
    os.environ.update(PLAIN, **{key: str(value) for key, value in variables.items()})
    with messages.open("wb") as file:
        os.dup2(file.fileno(), 2)
    target(*arguments)
