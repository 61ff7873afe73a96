"""Work on all cores: results in order, batches taken as needed, errors as they were raised."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from domain_ft.corpus import workers
from domain_ft.corpus.near_copies import text_fingerprints
from domain_ft.corpus.workers import in_order
from domain_ft.errors import CorpusError


def square(batch: int) -> tuple[int, int]:
    if batch < 0:
        raise ValueError(f"{batch} is below 0")
    return batch * batch, os.getpid()


def killed(batch: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 2)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where a worker finds `square`


def test_a_few_batches_stay_in_this_process(two_cores: None) -> None:
    few = range(workers.FEW_BATCHES)
    assert list(in_order(square, few, work="squares")) == [(n * n, os.getpid()) for n in few]


def test_many_batches_go_to_other_processes_and_come_back_in_order(two_cores: None) -> None:
    taken = []

    def batches() -> Iterator[int]:
        for number in range(60):
            taken.append(number)
            yield number

    with contextlib.closing(in_order(square, batches(), work="squares")) as results:
        done = [next(results)]
        assert len(taken) <= workers.FEW_BATCHES + 2  # a stream is not read ahead of the work
        done += results
    assert [value for value, _ in done] == [n * n for n in range(60)]
    assert os.getpid() not in {process for _, process in done}


def test_an_error_is_raised_as_in_the_worker(two_cores: None) -> None:
    with pytest.raises(ValueError, match="-1 is below 0"):
        list(in_order(square, [*range(20), -1, *range(20)], work="squares"))


@pytest.mark.parametrize("saved", [False, True])
def test_a_killed_worker_is_reported(two_cores: None, saved: bool) -> None:
    with pytest.raises(CorpusError, match="a process that counts was killed") as raised:
        list(in_order(killed, range(20), work="counts", saved=saved))
    assert ("resumes" in str(raised.value.fix)) == saved


def test_a_search_for_copies_does_not_promise_to_resume(two_cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(ThreadPoolExecutor):
        def __init__(self, *_: object, **__: object) -> None:
            super().__init__(1)

        def submit(self, *_: object, **__: object) -> Any:
            raise BrokenProcessPool

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Killed)
    monkeypatch.setattr(workers, "FEW_BATCHES", 0)
    with pytest.raises(CorpusError, match="a process that looks for copies was killed") as raised:
        text_fingerprints(["a text"])
    assert raised.value.fix == "close other programs and start again"


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """Workers do not run the user's script again, so it needs no `if __name__ == "__main__"`."""
    script = tmp_path / "script.py"
    script.write_text(
        "from domain_ft.corpus import workers\n"
        "from test_workers import square\n"
        "workers.cores = lambda: 2\n"
        "print(sum(value for value, _ in workers.in_order(square, range(20), work='squares')))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(sum(n * n for n in range(20)))]
