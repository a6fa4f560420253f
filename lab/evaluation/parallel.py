"""Spreading independent tasks over processes of this machine or over a Ray cluster, with the same results bit for bit.

Every task is computed by one thread wherever it runs, so that a figure does not depend on how many workers there were.
Tasks that follow each other share much (a seed's channels); each worker takes a run of consecutive ones, and one that
has finished takes over from the end of the longest run that is left. Our definition.

Not joblib: it hands out tasks in turn, so that every worker draws every seed's channels (fig6, 42 parts of 3 seeds:
sets of channels drawn 6 times in place of 4 on two workers, 42 in place of 26 on sixteen), and Ray's backend of it
gives results only at the end (an interrupted run would lose them) and does not compare programs and weights.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import psutil

from lab.evaluation.cache import program_hash, weights_hash
from semlink.errors import InvalidField, NotFound, Unavailable
from semlink.progress import progress

T = TypeVar("T")
R = TypeVar("R")
RAY: Final = "ray"
AUTO: Final = "auto"
GIB_EACH: Final = 3.0
"""Free memory that ``auto`` wants for each process."""
THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextmanager
def one_thread() -> Iterator[None]:
    """Numbers that do not depend on the machine's cores: torch and the BLAS of numpy compute with one thread."""
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def count_of(workers: str) -> int:
    """How many processes ``workers`` asks for on this machine: a number, or "auto".

    "auto": one a core, as far as memory goes. Raises InvalidField for anything else, ``ray`` included.
    """
    if workers == AUTO:
        cores = len(os.sched_getaffinity(0))
        free_gib = psutil.virtual_memory().available / 2**30
        return max(1, min(cores, int(free_gib / GIB_EACH)))
    if workers.isdecimal() and int(workers) >= 1:
        return int(workers)
    raise InvalidField(
        f"workers is {workers!r}, allowed: {AUTO}, {RAY}, or a number of processes from 1",
        field="workers",
    )


def check_workers(workers: str) -> str:
    """The value itself. Raises InvalidField, or NotFound where ``ray`` is asked for and not installed."""
    if workers != RAY:
        count_of(workers)
        return workers
    from importlib.util import find_spec

    if find_spec("ray") is None:
        raise NotFound("Ray is not installed: pip install 'semlink[cluster]'", field="workers")
    return workers


def spread(
    function: Callable[[T], R], tasks: Sequence[T], workers: str = "1"
) -> Iterator[tuple[int, R]]:
    """Number and result of every task, in the order in which they are done.

    ``function``, a module's own, and tasks are sent to the processes. ``workers``: "1" computes here; another number or
    "auto" in so many processes of this machine; "ray" on every core of the Ray cluster that ``RAY_ADDRESS`` names, of
    this machine where it names none. Raises what a task raises; Unavailable where a worker holds another program or
    other weights than this machine.
    """
    if not tasks:
        return
    if check_workers(workers) == RAY:
        with _ray_seats(len(tasks)) as seats:
            yield from _served(function, tasks, seats)
        return
    count = min(count_of(workers), len(tasks))
    if count == 1:
        with one_thread():
            yield from ((number, function(task)) for number, task in enumerate(tasks))
        return
    with _process_seats(count) as seats:
        yield from _served(function, tasks, seats)


def results_of(function: Callable[[T], R], tasks: Sequence[T], workers: str, title: str) -> list[R]:
    """The results of :func:`spread` in the order of the tasks, with a progress bar."""
    with progress() as bar:
        done = spread(function, tasks, workers)
        found = dict(bar.track(done, total=len(tasks), description=title))
    return [found[number] for number in range(len(tasks))]


class Seat(Protocol):
    """A process that does one task at a time and keeps what it has loaded for the next."""

    def submit(self, function: Callable[[T], R], task: T, /) -> Future[R]:
        """Begin a task."""
        ...


def _served(
    function: Callable[[T], R], tasks: Sequence[T], seats: Sequence[Seat]
) -> Iterator[tuple[int, R]]:
    each = -(-len(tasks) // len(seats))
    runs = [deque(range(i, min(i + each, len(tasks)))) for i in range(0, len(seats) * each, each)]
    busy: dict[Future[R], tuple[int, int]] = {}

    def employ(seat: int) -> None:
        longest = max(runs, key=len)
        if runs[seat]:
            number = runs[seat].popleft()
        elif longest:
            number = longest.pop()
        else:
            return
        busy[seats[seat].submit(function, tasks[number])] = (seat, number)

    for seat in range(len(seats)):
        employ(seat)
    while busy:
        for done in wait(busy, return_when=FIRST_COMPLETED).done:
            seat, number = busy.pop(done)
            employ(seat)
            yield number, done.result()


# --- processes of this machine -----------------------------------------------------------------


@contextmanager
def _process_seats(count: int) -> Iterator[list[Seat]]:
    # Libraries read these when they are loaded, which in a child is before its initialiser runs.
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, context, initializer=_begin) for _ in range(count)]
    try:
        yield list(pools)
    except BaseException:
        # What is under way is not waited for: an interrupted run ends now.
        for pool in pools:
            for process in (pool._processes or {}).values():
                process.terminate()
        raise
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _begin() -> None:
    # Ctrl-C reaches every process of a terminal; the one that waits for the others ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_threads()


def _limit_threads() -> None:
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


# --- a Ray cluster -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _RaySeat:
    actor: Any

    def submit(self, function: Callable[[T], R], task: T, /) -> Future[R]:
        done: Future[R] = self.actor.work.remote(function, task).future()
        return done


class _Worker:
    """What Ray runs in each of its processes."""

    def __init__(self) -> None:
        _limit_threads()

    def holds(self) -> tuple[str, str]:
        """Hashes of the program and the weights on the worker's machine."""
        return program_hash(), weights_hash()

    def work(self, function: Callable[[Any], Any], task: Any) -> Any:
        return function(task)


@contextmanager
def _ray_seats(most: int) -> Iterator[list[Seat]]:
    import ray

    ours = not ray.is_initialized()
    if ours:
        address = os.environ.get("RAY_ADDRESS")
        try:
            ray.init(
                address=address,
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except ConnectionError as error:
            raise Unavailable(
                f"no Ray cluster answers at RAY_ADDRESS {address!r}: {error}. Is it up, and has this machine its token "
                "(RAY_AUTH_MODE=token, ~/.ray/auth_token)?",
                field="workers",
            ) from error
    actors: list[Any] = []
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cores = int(resources.get("CPU", 1))
        # max_restarts 0: a task whose process died is an error, not a silent second try.
        remote = ray.remote(num_cpus=1, max_restarts=0)(_Worker)
        actors = [remote.remote() for _ in range(min(cores, most))]
        for held in ray.get([actor.holds.remote() for actor in actors]):
            if held != (program_hash(), weights_hash()):
                raise Unavailable(
                    "a machine of the Ray cluster holds another semlink or other weights: install the same commit "
                    "everywhere",
                    field="workers",
                )
        yield [_RaySeat(actor) for actor in actors]
    finally:
        for actor in actors:
            ray.kill(actor)
        if ours:
            ray.shutdown()
