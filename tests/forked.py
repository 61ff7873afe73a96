"""Runs programs in separate processes, alone or as the ranks of one job, without the seconds that imports take.

Processes are forked from a server that has imported the verbs but computed nothing, because torch's threads do not
survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([f"domain_ft.verbs.{verb}.run" for verb in ("adapt", "classify", "instruct", "evaluate")])

PATIENCE = 30
"""Seconds for the other ranks to end after one has failed."""


@dataclass(frozen=True)
class Finished:
    """The exit codes of all ranks, and what they wrote, one rank after the other."""

    codes: list[int | None]
    stdout: str
    stderr: str


def _main(program: Callable[..., int | None], arguments: Sequence[Any], said: Path, variables: dict[str, str]) -> None:
    for number, name in ((1, "out"), (2, "err")):
        with said.with_name(f"{said.name}.{name}").open("w") as file:
            os.dup2(file.fileno(), number)
    os.environ.update(variables)
    try:
        status = program(*arguments)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


def start(program: Callable[..., int | None], *arguments: Any, said: Path, **variables: str) -> BaseProcess:
    """Start `program`. Its exit status is what it returns (0 for None), its output is in `said`.out and `said`.err."""
    process = SERVER.Process(target=_main, args=(program, arguments, said, variables))
    process.start()
    return process


def run(
    program: Callable[..., int | None],
    *arguments: Any,
    ranks: int = 1,
    seconds: float = 300,
    said: Path,
    **variables: str,
) -> Finished:
    """Run `program` in `ranks` processes; if there are several, each gets the variables that torchrun sets.

    After one has failed, the others have `PATIENCE` seconds to end. All are killed after `seconds`.
    """
    files = [said.with_name(f"{said.name}-{rank}") for rank in range(ranks)]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(ranks)}
    shared["LOCAL_WORLD_SIZE"] = shared["WORLD_SIZE"]
    processes = []
    for rank, file in enumerate(files):
        own = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "1"} if ranks > 1 else {}
        processes.append(start(program, *arguments, said=file, **own, **variables))
    end = time.monotonic() + seconds
    failed = False
    while (running := [process for process in processes if process.is_alive()]) and time.monotonic() < end:
        wait([process.sentinel for process in running], timeout=end - time.monotonic())
        if not failed and any(process.exitcode for process in processes):
            failed, end = True, min(end, time.monotonic() + PATIENCE)
    for process in processes:
        process.kill()
        process.join()
    texts = {name: "".join(Path(f"{file}.{name}").read_text() for file in files) for name in ("out", "err")}
    return Finished([process.exitcode for process in processes], texts["out"], texts["err"])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
