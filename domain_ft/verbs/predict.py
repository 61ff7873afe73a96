"""`domain-ft predict`: labels and probabilities, or entities, a JSON object a line, in the order of the input.

Texts are read, answered and written in batches: memory does not depend on how many there are. What was stopped goes on
with --resume: the input is read again, which is cheap, and answered after the last whole line of the output.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from domain_ft.corpus.tasks.encoding import Encoder
from domain_ft.corpus.tasks.examples import Example
from domain_ft.corpus.tasks.fields import FieldNames
from domain_ft.corpus.tasks.reading import iterate_inputs
from domain_ft.corpus.tasks.rows import ExampleRows
from domain_ft.evaluation.logits import predict_logits
from domain_ft.evaluation.predictions import probabilities
from domain_ft.models.task_facts import TaskFacts
from domain_ft.models.task_model import TaskModel, load_task_run
from domain_ft.settings import PredictSettings
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.machine import Machine, choose_machine
from domain_ft.verbs.streams import bad_records, check_streams, open_output, open_rejects, pass_over

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
    check_streams(settings, "predictions")
    machine = choose_machine(settings)
    with ProgressDisplay(quiet=settings.quiet) as display, contextlib.ExitStack() as stack:
        facts = TaskFacts.load(Path(settings.model))
        model = load_task_run(Path(settings.model), device=machine.device, dtype=machine.weights_dtype(facts.method))
        make = {"sequence": _classes, "token": _entities}[facts.kind]
        answer = make(model, facts, settings, machine)
        output = stack.enter_context(open_output(settings, stdout or sys.stdout))
        rejects = stack.enter_context(open_rejects(settings, settings.rejects))
        source = Path(settings.input) if settings.input != "-" else stdin or sys.stdin.buffer
        texts = iterate_inputs(
            source, _fields(facts, settings), settings.id_field, bad_records(rejects, settings.encoding)
        )
        pass_over(texts, output, settings)
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
        rows = ExampleRows.of(encoder, batch)
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

    def answer(batch: Sequence[Example]) -> Iterator[dict[str, Any]]:
        with machine.accelerator.autocast():
            yield from tag_texts(model, batch, tokens_per_pass=settings.tokens_per_pass, max_length=facts.max_length)

    return answer
