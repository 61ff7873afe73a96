"""Maps a function over a stream of batches on all cores; results come in the order of the batches.

Short streams are processed without workers, because a worker takes a second to start. Each worker has only a few
batches in flight, so that memory does not grow with the stream.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from domain_ft.errors import CorpusError

Item = TypeVar("Item")
Result = TypeVar("Result")

FEW_BATCHES = 8  # a stream of at most this many batches is processed without workers
_WAITING = 3  # batches in flight for each worker

_function: Callable[[Any], Any]  # in a worker: the function that it applies


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    function: Callable[[Item], Result], batches: Iterable[Item], *, work: str, saved: bool = False
) -> Generator[Result, None, None]:
    """The result of `function` for each batch, in order. On several cores, long streams have one worker per core.

    Args:
        function: pickled once for each worker, so not a lambda or a local function.
        batches: consumed lazily. With workers, each batch and each result is pickled.
        work: what a worker does, for messages, such as "reads the corpus".
        saved: whether the caller saves results as they come, and the next call resumes after them.

    Raises:
        CorpusError: a worker was killed, most often because memory ran out.
        Exception: any error that `batches` or `function` raises.
    """
    batches = iter(batches)
    first = list(itertools.islice(batches, FEW_BATCHES + 1))
    batches = itertools.chain(first, batches)
    if len(first) <= FEW_BATCHES or cores() == 1:
        yield from map(function, batches)
        return
    pool = ProcessPoolExecutor(
        cores(), mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(function,)
    )
    pending: collections.deque[Future[Result]] = collections.deque()
    try:
        for batch in batches:
            with _main_hidden():  # the first batches start the workers
                pending.append(pool.submit(_work, batch))
            if len(pending) >= _WAITING * cores():
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise CorpusError(
            f"a process that {work} was killed, most often because memory ran out",
            fix="close other programs and start again"
            + ("; the run resumes after the last saved batch" if saved else ""),
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep workers that start in this block from importing the main program.

    Otherwise, a spawned process would run the user's script again if the script has no `if __name__ == "__main__"`.
    Workers do not need the script.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _begin(function: Callable[[Any], Any]) -> None:
    """Make a process a worker for `function`."""
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one stops the workers
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core for each worker


def _work(batch: Any) -> Any:
    return _function(batch)
