"""Jobs done by several processes, in order. One that is killed takes nothing with it: its job alone is done again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from afina.errors import AfinaError

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

TIMES = 3
"""How often a job is begun: what kills its process each time would do so for ever."""
AHEAD = 2
"""Results for each process that wait for an earlier one; then no further job is begun."""
Job = TypeVar("Job")
Done = TypeVar("Done")


def in_processes(
    do: Callable[[Job], Done],
    jobs: Iterable[Job],
    workers: int,
    *,
    where: Callable[[Job], str],
    again: Counter[int] | None = None,
    initializer: Callable[[], None] | None = None,
) -> Iterator[Done]:
    """What `do` returns for each job, in order; `jobs` are asked for as they are begun.

    Each process is a pool of its own. In one pool for all of them a process that is killed ends the others too
    (`concurrent.futures`), or its job is waited for without end (`multiprocessing.Pool`, datatrove's local executor).

    Args:
        do: sent to the processes with its job, so a function of a module or a `partial` of one. Begun again with the
            same job it has to write over what a killed process left.
        where: what of a job an error names.
        again: is told how often each job was begun anew, by its position in `jobs`.
        initializer: called once in each process.

    Raises:
        AfinaError: the process of one job was killed each time.
        What `do` raises.
    """
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    def started() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, get_context("spawn"), initializer)

    again = Counter() if again is None else again
    free = [started() for _ in range(workers)]
    running: dict[Future[Done], tuple[ProcessPoolExecutor, int, Job]] = {}
    upcoming, lost, done = enumerate(jobs), deque[tuple[int, Job]](), dict[int, Done]()
    given = 0
    try:
        while True:
            while free and (lost or len(done) < AHEAD * workers):
                numbered = lost.popleft() if lost else next(upcoming, None)
                if numbered is None:
                    break
                try:
                    future = free[-1].submit(do, numbered[1])
                except BrokenProcessPool:  # killed before it had this job
                    lost.appendleft(numbered)
                    free.pop().shutdown()
                    free.append(started())
                    continue
                running[future] = free.pop(), *numbered
            if given in done:
                yield done.pop(given)
                given += 1
                continue
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                pool, number, job = running.pop(future)
                free.append(pool)
                try:
                    done[number] = future.result()
                except BrokenProcessPool:
                    again[number] += 1
                    if again[number] == TIMES:
                        raise _killed(where(job)) from None
                    lost.append((number, job))
    finally:
        for pool in [*free, *(pool for pool, _, _ in running.values())]:
            pool.shutdown(cancel_futures=True)


def _killed(where: str) -> AfinaError:
    return AfinaError(
        f"the process that worked on it was killed {TIMES} times, as the system does where memory runs out",
        "close other programs, or cut the file into smaller ones; then start the same command again",
        where,
    )
