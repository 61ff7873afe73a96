"""`domain-ft predict`: labels and probabilities, or entities, a JSON object a line, in the order of the input.

Texts are read, answered and written in batches: memory does not depend on how many there are. What was stopped goes on
with --resume: the input is read again, which is cheap, and answered after the last whole line of the output.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from domain_ft.corpus.readers.base import BadRecords, Reject
from domain_ft.corpus.tasks.examples import Example
from domain_ft.corpus.tasks.fields import FieldNames
from domain_ft.corpus.tasks.reading import iterate_inputs
from domain_ft.corpus.tasks.rows import Encoder
from domain_ft.errors import SettingsError
from domain_ft.evaluation.logits import predict_logits
from domain_ft.evaluation.predictions import probabilities
from domain_ft.models.task_facts import TaskFacts
from domain_ft.models.task_model import TaskModel, load_task_run
from domain_ft.settings import PredictSettings
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.machine import Machine, choose_machine

BATCH = 512
"""Texts that are answered at once: enough that some have about equal lengths, few enough to be no weight."""

Answer = Callable[[Sequence[Example]], Iterable[dict[str, Any]]]
"""Gives the line of each text, in their order."""


def predict(settings: PredictSettings, stdin: BinaryIO | None = None, stdout: TextIO | None = None) -> dict[str, Any]:
    """Answer every text of --input, and say how many there were.

    Args:
        stdin: what is read for `--input -`; the process's own where none is given.
        stdout: what is written to without --output; the process's own where none is given.

    Raises:
        UserError: the run, the input or the output cannot be used. What is written stays, to be gone on with.
    """
    began = time.perf_counter()
    _check(settings)
    machine = choose_machine(settings)
    with ProgressDisplay(quiet=settings.quiet) as display, contextlib.ExitStack() as stack:
        facts = TaskFacts.load(Path(settings.model))
        model = load_task_run(Path(settings.model), device=machine.device, dtype=machine.weights_dtype(facts.method))
        answer = (
            _classes(model, facts, settings, machine)
            if facts.kind == "sequence"
            else _entities(model, facts, settings, machine)
        )
        output = stack.enter_context(_output(settings, stdout or sys.stdout))
        rejects = stack.enter_context(_rejects(settings))
        bad = BadRecords("skip" if rejects else "stop", rejects.add if rejects else _never)
        source = Path(settings.input) if settings.input != "-" else stdin or sys.stdin.buffer
        texts = iterate_inputs(source, _fields(facts, settings), settings.id_field, bad)
        _pass_over(texts, output, settings)
        written = output.done
        while batch := list(itertools.islice(texts, BATCH)):
            output.write(answer(batch))
            written += len(batch)
            display.job("predicting", written, None)
    return {
        "command": "predict",
        "model": settings.model,
        "device": machine.device.type,
        "texts": written,
        "done_before": output.done,
        "rejected": rejects.count if rejects else 0,
        "wall_seconds": time.perf_counter() - began,
        "output": str(settings.output) if settings.output else None,
    }


def run(settings: PredictSettings) -> dict[str, Any]:
    """The verb: predict, and say on standard error how many texts there were."""
    result = predict(settings)
    if not settings.quiet and not settings.json:
        rejected = f", {result['rejected']:,} rejected" if result["rejected"] else ""
        where = f" in {settings.output}" if settings.output else ""
        print(f"{result['texts']:,} texts{where}{rejected}", file=sys.stderr)
    return result


def _check(settings: PredictSettings) -> None:
    if settings.json and not settings.output:
        raise SettingsError(
            "--json without --output: the predictions and the result cannot both go to standard output",
            fix="give --output F, or leave --json out: the predictions are JSON lines in any case",
        )
    if settings.resume and not settings.output:
        raise SettingsError("--resume without --output: there is nothing to go on with", fix="give the --output F")
    if settings.input != "-" and not Path(settings.input).is_file():
        raise SettingsError(
            f"--input {settings.input}: there is no such file", fix="check the path; - is standard input"
        )


def _fields(facts: TaskFacts, settings: PredictSettings) -> FieldNames:
    """Which fields of the input hold what: as it was learned from, unless something else is asked for."""
    learned = {name: facts.fields.get(name) for name in ("text", "pair", "id")}
    asked = {"text": settings.text_field, "pair": settings.pair_field, "id": settings.id_field}
    return FieldNames(**{name: asked[name] or learned[name] for name in asked})


# --- Answers ----------------------------------------------------------------------------------------------------------


def _classes(model: TaskModel, facts: TaskFacts, settings: PredictSettings, machine: Machine) -> Answer:
    """Labels with the probability of every class."""
    temperature = facts.temperature if settings.calibrate else 1.0
    names = model.labels.names
    encoder = Encoder.of(model.tokenizer, model.labels, max_length=facts.max_length, long_text=facts.long_text)

    def answer(batch: Sequence[Example]) -> Iterator[dict[str, Any]]:
        rows = encoder.rows(batch)
        with machine.accelerator.autocast():
            logits = predict_logits(model, rows, tokens_per_pass=settings.tokens_per_pass)
        chances = probabilities(logits, model.labels.several, temperature)
        for example, own in zip(batch, chances.tolist(), strict=True):
            by_name = dict(zip(names, own, strict=True))
            if model.labels.several:
                said: dict[str, Any] = {
                    "labels": [name for name, p in zip(names, own, strict=True) if p >= facts.threshold]
                }
            else:
                said = {"label": names[max(range(len(own)), key=own.__getitem__)]}
            yield {"id": example.id, **said, "probabilities": by_name}

    return answer


def _entities(model: TaskModel, facts: TaskFacts, settings: PredictSettings, machine: Machine) -> Answer:
    """Entities with their character offsets."""
    from domain_ft.evaluation.tagging import tag_texts

    def answer(batch: Sequence[Example]) -> Iterable[dict[str, Any]]:
        with machine.accelerator.autocast():
            yield from tag_texts(model, batch, tokens_per_pass=settings.tokens_per_pass, max_length=facts.max_length)

    return answer


# --- Files ------------------------------------------------------------------------------------------------------------


@dataclass
class _Output:
    """Where lines go, and what an earlier call has written there.

    Attributes:
        file: to write to.
        done: whole lines of an earlier call.
        last: the id in the last of them.
    """

    file: TextIO
    done: int = 0
    last: str | None = None

    def write(self, lines: Iterable[dict[str, Any]]) -> None:
        """Write a batch; it is with the system when this returns."""
        for line in lines:
            self.file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self.file.flush()


@contextlib.contextmanager
def _output(settings: PredictSettings, stdout: TextIO) -> Iterator[_Output]:
    """Standard output, a new file, or with --resume one whose last line may be cut."""
    path = settings.output
    if path is None:
        yield _Output(stdout)
        return
    if path.exists() and not settings.resume:
        raise SettingsError(
            f"--output {path} exists already",
            fix="go on with it by --resume, remove it, or give another name; nothing was changed",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    done, last = _cut_to_whole_lines(path) if path.exists() else (0, None)
    with path.open("a", encoding="utf-8") as file:
        yield _Output(file, done, last)


def _cut_to_whole_lines(path: Path) -> tuple[int, str | None]:
    """Drop a last line that was cut short; the number of lines that are left, and the id in the last of them."""
    lines, end, last = 0, 0, b""
    with path.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            lines, end, last = lines + 1, end + len(line), line
        file.truncate(end)
    try:
        return lines, str(json.loads(last)["id"]) if last else None
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"--resume: {path} holds something else than predictions", fix="give another --output"
        ) from error


def _pass_over(texts: Iterator[Example], output: _Output, settings: PredictSettings) -> None:
    """Read what an earlier call has answered, and make sure that it is this input."""
    last = next(itertools.islice(texts, output.done - 1, None), None) if output.done else None
    if output.done and (last is None or last.id != output.last):
        raise SettingsError(
            f"--resume: line {output.done:,} of {settings.output} is of the text '{output.last}', which is not what "
            f"--input has there",
            fix="give the input that the output was begun with, or another --output",
        )


class _Rejects:
    """A file of the records that could not be read, in their order; it is there only if there are any."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._file: TextIO | None = None
        path.unlink(missing_ok=True)  # the input is read from its beginning, so all of them are found again

    def add(self, reject: Reject) -> None:
        """List a record."""
        if self._file is None:
            self._file = self._path.open("w", encoding="utf-8")
        self._file.write(json.dumps(asdict(reject), ensure_ascii=False) + "\n")
        self._file.flush()
        self.count += 1

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


@contextlib.contextmanager
def _rejects(settings: PredictSettings) -> Iterator[_Rejects | None]:
    """--rejects, or OUTPUT.rejects.jsonl; None where a bad record stops the reading."""
    path = settings.rejects
    if path is None and settings.output:
        path = settings.output.with_name(f"{settings.output.name}.rejects.jsonl")
    if path is None:
        yield None
        return
    rejects = _Rejects(path)
    try:
        yield rejects
    finally:
        rejects.close()


def _never(reject: Reject) -> None:
    raise AssertionError(reject)
