"""The partitions of a batch through a pool of Ray's actors, each with its own network.

Ray Data hands a partition to the next free actor, starts a new actor for one that dies, and gives
its partition to another; ``work`` sees to it that nothing is done twice or lost thereby.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pickle
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sruplift.batch import pixel_parameters
from sruplift.cluster.parts import Part, part_name, tidy
from sruplift.cluster.places import find_place, said
from sruplift.cluster.planning import ClusterOptions, Partition, Plan, make_plan
from sruplift.cluster.work import Outcome, do_partition
from sruplift.engine import choose_device
from sruplift.errors import SrupliftError, UsageError
from sruplift.heap import keep_freed_memory
from sruplift.report import record_of

if TYPE_CHECKING:
    from sruplift.upscaler import UpscaleOptions

# Of a worker, where nothing else is asked for and the machine has as many.
CORES = 4
# Workers that a cluster may have, before it is asked: it only says how finely work is cut.
SOME = 32
# How long a cluster may take to answer, seconds. Ray itself would wait for minutes.
PATIENCE = 10
# Bytes of the local Ray's object store: images never go through it.
STORE = 100 * 2**20
_SILENT = {"log_to_driver": False, "logging_level": "critical"}
_AUTHENTICATION = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
# Workers, cores and GPUs of each, and where copies may lie.
_Shape = tuple[int, int, int, Path | None]
# Must be set before ray is imported.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Pool:
    """How many workers, and where; None is as many as there are GPUs, else cores, for.

    Args:
        workers: processes, each with a network.
        cores_per_worker: CPU cores, and threads, of each.
        address: of a Ray cluster to join, such as "auto"; None starts Ray on this machine.

    Raises:
        UsageError: a number below 1.
    """

    workers: int | None = None
    cores_per_worker: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "cores_per_worker"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        if self.address == "":
            raise UsageError("--address is empty: name a Ray cluster")

    def shape(self, cores: int, gpus: int) -> tuple[int, int]:
        """Workers and the cores of each, where there are so many cores and GPUs for them."""
        share = max(1, cores // (self.workers or gpus or 1))
        each = self.cores_per_worker or min(CORES, share)
        return self.workers or gpus or max(1, cores // each), each


@dataclass
class Totals:
    """What became of all images of a batch so far; ``errors`` of the last partition."""

    skipped: int
    done: int = 0
    failed: int = 0
    errors: tuple[str, ...] = field(default=())

    def add(self, outcome: Outcome) -> None:
        """Count one more partition."""
        self.done += outcome.done
        self.failed += outcome.failed
        self.skipped += outcome.skipped
        self.errors = outcome.errors


def run_job(options: ClusterOptions, pool: Pool) -> Iterator[tuple[Plan, Totals]]:
    """Do what is left of a batch; the totals after the plan and after each partition.

    Raises:
        UsageError: Ray is missing or not there; whatever ``make_plan`` refuses.
        WeightsError: the weights cannot be found, downloaded or verified.
        SrupliftError: a worker cannot begin, a store does not answer.
        ReportError: the report cannot be read or written.
    """
    import_ray(alone=pool.address is None)  # Before anything else is done.
    parameters = pixel_parameters(options.upscale)
    workers = pool.workers or SOME
    if pool.address is None:
        choose_device(options.upscale.device)  # A wrong one is said now.
        workers, _ = pool.shape(*_of_this_machine(device_of(options.upscale)))
    plan = make_plan(options, parameters, workers)
    outcome = _failed(plan, options, parameters)
    totals = Totals(plan.skipped)
    totals.add(outcome)
    yield plan, totals
    if plan.partitions:
        for outcome in run_on_ray(plan, options, parameters, pool):
            totals.add(outcome)
            yield plan, totals
    if plan.partitions or plan.failures:
        target = find_place(options.output)
        tidy(target, target.files(), plan.run)


def import_ray(*, alone: bool) -> Any:
    """The module ``ray``, which is an extra; it is told to be quiet and to report to nobody.

    ``alone``: it will be started on this machine, not joined.

    Raises:
        UsageError: it is not installed.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # Nobody else may give our Ray work. Without a token Ray would leave one in the home folder.
    if alone and not _AUTHENTICATION & set(os.environ):
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise UsageError('sruplift batch needs Ray: pip install "sruplift[ray]"') from error
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return ray


def device_of(options: UpscaleOptions) -> str:
    """The device that workers need: other backends than PyTorch run on CPUs."""
    return options.device if options.backend == "torch" else "cpu"


def run_on_ray(
    plan: Plan, options: ClusterOptions, parameters: Mapping[str, Any], pool: Pool
) -> Iterator[Outcome]:
    """How each partition went, as soon as it is done, in any order.

    Raises:
        UsageError: there is no Ray cluster at the address.
        SrupliftError: a worker cannot begin or write the report.
    """
    ray = import_ray(alone=pool.address is None)
    with _session(ray, pool, device_of(options.upscale)) as (workers, cores, gpus, scratch):
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        rows = [{"partition": pickle.dumps(each)} for each in plan.partitions]
        actors = ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1)
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            Worker,
            fn_constructor_args=(pickle.dumps((options, parameters, cores, scratch)),),
            compute=actors,
            num_cpus=cores,
            num_gpus=1 if gpus else 0,
        )
        try:
            for row in results.iter_rows():
                yield _outcome(row)
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1:]
            raise SrupliftError(f"Ray: {' '.join(last) or type(error).__name__}") from error


class Worker:
    """One actor: a network, and the partitions that it is given one after the other."""

    def __init__(self, settings: bytes) -> None:
        self._settings = settings
        self._upscaler: Any = None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The outcome of ``row``'s partition, or the error for which it could not be done.

        Errors are values here: one that is raised in an actor comes out of Ray as another kind,
        with its traceback for a message.
        """
        options, parameters, cores, scratch = pickle.loads(self._settings)
        partition: Partition = pickle.loads(row["partition"])
        try:
            if self._upscaler is None:
                self._upscaler = _upscaler(options, cores)
            result: Any = do_partition(partition, options, parameters, self._upscaler, scratch)
        except SrupliftError as error:
            result = error
        except Exception as error:
            result = SrupliftError(f"a worker failed: {type(error).__name__}: {said(error)}")
        return {"outcome": pickle.dumps(result)}


def _upscaler(options: ClusterOptions, cores: int) -> Any:
    import torch

    from sruplift.upscaler import Upscaler

    torch.set_num_threads(cores)
    keep_freed_memory()  # as the commands do, so that tiles are the same
    upscale = options.upscale
    fields = {name: getattr(upscale, name) for name in upscale.__dataclass_fields__}
    return Upscaler(**fields)


def _outcome(row: Mapping[str, Any]) -> Outcome:
    result = pickle.loads(row["outcome"])
    if isinstance(result, SrupliftError):
        raise result
    assert isinstance(result, Outcome)
    return result


@contextlib.contextmanager
def _session(ray: Any, pool: Pool, device: str) -> Iterator[_Shape]:
    """Ray, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="sr-", ignore_cleanup_errors=True) as folder:
        try:
            with _undisturbed():
                if pool.address is not None:
                    each = _join(ray, pool, device)
                else:
                    each = _start(ray, pool, device, folder)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = "start" if pool.address is None else f"be joined at {pool.address}"
            raise UsageError(f"Ray cannot {where}: {said(error).split('. ')[0]}") from error
        try:
            yield each
        finally:
            ray.shutdown()


def _join(ray: Any, pool: Pool, device: str) -> _Shape:
    host, _, port = str(pool.address).rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), PATIENCE).close()
    ray.init(address=pool.address, **_SILENT)
    there = ray.cluster_resources()
    gpus = 0 if device == "cpu" else int(there.get("GPU", 0))
    return *pool.shape(int(there.get("CPU", 1)), gpus), gpus, None


def _start(ray: Any, pool: Pool, device: str, folder: str) -> _Shape:
    all_cores, gpus = _of_this_machine(device)
    workers, cores = pool.shape(all_cores, gpus)
    ray.init(
        address="local",  # Not the cluster that RAY_ADDRESS may name.
        num_cpus=workers * cores,
        num_gpus=gpus,
        include_dashboard=False,
        object_store_memory=STORE,
        _temp_dir=folder,
        **_SILENT,
    )
    return workers, cores, gpus, Path(folder)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """While Ray starts: what its libraries say on stderr is lost, SIGTERM's handler is kept."""
    handler = signal.getsignal(signal.SIGTERM)
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _of_this_machine(device: str) -> tuple[int, int]:
    """The cores that this process may use, and the GPUs that ``device`` means."""
    import torch

    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return cores, torch.cuda.device_count() if device in ("auto", "cuda") else 0


def _failed(plan: Plan, options: ClusterOptions, parameters: Mapping[str, Any]) -> Outcome:
    """Write the lines of what failed while it was planned."""
    if plan.failures:
        part = Part(find_place(options.output), part_name(plan.run, 0))
        for each in plan.failures:
            record = record_of(each, each, parameters, None) | {"input": str(each.source)}
            part.add({**record, "input_version": "", "input_name": each.source.name})
    return Outcome(0, len(plan.failures), 0, tuple(str(each.error) for each in plan.failures))
