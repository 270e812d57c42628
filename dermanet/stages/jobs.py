"""Jobs side by side: processes that work on one study, ended with whoever started them.

Processes, as TensorFlow trains one network a process. Each has its share of the cores: many trainings on one thread each do more in an
hour than one training on many threads.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, cast

from dermanet.errors import BadInput, DermaNetError
from dermanet.stages.rooms import Progress
from dermanet.stages.trial import train_trials

THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
"""What TensorFlow and the libraries below it take their number of threads from, when they are imported."""

MEMORY = 2 * 2**30
"""Bytes that a job is reckoned with: TensorFlow, a network and its batches."""

GRACE = 10.0
"""Seconds after which a job that was asked to end is made to."""

SPAWN = multiprocessing.get_context("spawn")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fitting() -> int:
    """As many jobs as there are cores, and as the free memory holds; at least one."""
    import psutil

    return max(1, min(cores(), psutil.virtual_memory().available // MEMORY))


def work_side_by_side(count: int, study_id: str, asked: int, parent: str, progress: Progress) -> None:
    """Runs `count` jobs until all have ended, each with its share of the cores.

    Raises what a job ended with, after the others were ended; an interrupt ends them too.
    """
    threads = max(1, cores() // count)
    jobs: dict[Connection, SpawnProcess] = {}
    try:
        with _deaf_to_interrupts():
            jobs.update(_start(threads, (study_id, asked, parent)) for _ in range(count))
        while jobs:
            for ready in wait(list(jobs)):
                pipe = cast(Connection, ready)
                if not _heard(pipe, jobs[pipe], progress):
                    del jobs[pipe]
    finally:
        _end(list(jobs.values()))


def _start(threads: int, work: tuple[str, int, str]) -> "tuple[Connection, SpawnProcess]":
    ours, theirs = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_job, args=(theirs, threads, work), daemon=True)
    process.start()
    theirs.close()
    return ours, process


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started here are never interrupted by the terminal: Ctrl-C reaches whoever started them, who ends them.

    An interrupt meanwhile is raised afterwards, when all of them are known: the mask alone, which they inherit, would leave it to
    another thread of this process.
    """
    heard: list[int] = []
    # One that was started on the way would end the deafness.
    resource_tracker.ensure_running()
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number)) if main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, handler)
    if heard:
        raise KeyboardInterrupt


def _heard(pipe: Connection, process: SpawnProcess, progress: Progress) -> bool:
    """Passes on what a job says; whether it goes on. Raises what it ended with."""
    try:
        word, said = pipe.recv()
    except EOFError:
        process.join()
        if process.exitcode:
            raise DermaNetError(f"a job of the search was killed (status {process.exitcode})") from None
        return False
    if word == "line":
        progress(said)
        return True
    status, line = said
    raise BadInput(line) if status == BadInput.exit_status else DermaNetError(line)


def _job(pipe: Connection, threads: int, work: tuple[str, int, str]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    try:
        train_trials(*work, lambda line: pipe.send(("line", line)))
    except DermaNetError as error:
        pipe.send(("end", (error.exit_status, str(error))))
    except Exception as error:
        pipe.send(("end", (1, f"a job of the search: {type(error).__name__}: {error}")))


def _end_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()
    wait([parent.sentinel])
    # At once: what is under way is taken up by the next search.
    os.kill(os.getpid(), signal.SIGKILL)


def _end(processes: list[SpawnProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE)
        if process.is_alive():
            process.kill()
            process.join()
