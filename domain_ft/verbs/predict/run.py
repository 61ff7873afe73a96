"""`domain-ft predict`: labels and probabilities, or entities, one JSON object a line, in the order of the input.

Texts are read, predicted and written in batches, so memory does not depend on their number. A stopped call continues
with --resume: the input is read again, which is cheap, and predictions go on at the first text without an output line.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from domain_ft.corpus.cleaning import Aligned
from domain_ft.corpus.examples import Input
from domain_ft.corpus.left_out import LeftOut, sentences
from domain_ft.corpus.tasks.encoding import Encoder
from domain_ft.corpus.tasks.fields import FieldNames
from domain_ft.corpus.tasks.reading import iterate_inputs
from domain_ft.corpus.tasks.rows import ExampleRows
from domain_ft.embedded.loading import load_task_run, model_digest
from domain_ft.evaluation.logits import predict_logits
from domain_ft.evaluation.predictions import probabilities
from domain_ft.models.task_facts import TaskFacts
from domain_ft.models.task_model import TaskModel
from domain_ft.terminal_text import printable
from domain_ft.training.loop import release_free_memory
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.predict.settings import PredictSettings
from domain_ft.verbs.shared.machine import Machine, choose_machine
from domain_ft.verbs.shared.stream_state import Identity
from domain_ft.verbs.shared.streams import bad_records, check_streams, open_input, open_output, open_rejects, pass_over
from domain_ft.wording import counted

BATCH = 512
"""Texts per batch: enough to group texts of similar length, but few enough to need little memory."""

FORMS = {
    "sequence": (frozenset({"id", "label", "probabilities"}), frozenset({"id", "labels", "probabilities"})),
    "token": (frozenset({"id", "entities"}),),
}
"""The possible sets of keys of an output line, by kind of task."""


Answer = Callable[[Sequence[Input]], Iterable[dict[str, Any]]]
"""Returns the output line of each text, in order."""


def predict(settings: PredictSettings, stdin: BinaryIO | None = None, stdout: TextIO | None = None) -> dict[str, Any]:
    """Predict the classes or entities of every text of --input, and return the counts.

    Args:
        stdin: what `--input -` reads; sys.stdin by default.
        stdout: where lines go without --output; sys.stdout by default.

    Raises:
        UserError: the run, the input or the output cannot be used. Lines already written are kept for --resume.
    """
    began = time.perf_counter()
    check_streams(settings, "predictions", stdin)
    left_out = LeftOut()
    machine = choose_machine(settings)
    with ProgressDisplay(quiet=settings.quiet) as display, contextlib.ExitStack() as stack:
        facts = TaskFacts.load(Path(settings.model))
        model = load_task_run(Path(settings.model), device=machine.device, dtype=machine.weights_dtype(facts.method))
        make = {"sequence": _classes, "token": _entities}[facts.kind]
        answer = make(model, facts, settings, machine)
        identity = partial(_identity, settings, str(model.model.dtype), display)
        rejects = stack.enter_context(open_rejects(settings, left_out))
        output = stack.enter_context(open_output(settings, stdout or sys.stdout, FORMS[facts.kind], identity))
        texts = iterate_inputs(
            open_input(settings.input, stdin),
            _fields(facts, settings),
            settings.id_field,
            bad_records(rejects, settings.encoding, "have such records listed: --rejects F"),
            left_out,
            text_required=settings.text_field is not None,
        )
        pass_over(texts, output, rejects, settings)
        written = output.done
        while batch := list(itertools.islice(texts, BATCH)):
            output.write(answer(batch), batch)
            written += len(batch)
            display.job("predicting", written, None)
            release_free_memory()
    return {
        "command": "predict",
        "model": settings.model,
        "device": machine.device.type,
        "texts": written,
        "done_before": output.done,
        **left_out.to_result(),
        "rejects": str(rejects.path) if rejects and left_out.records else None,
        "wall_seconds": time.perf_counter() - began,
        "output": str(settings.output) if settings.output else None,
    }


def run(settings: PredictSettings) -> dict[str, Any]:
    """The verb: predict, and print the number of texts to standard error."""
    result = predict(settings)
    if not settings.quiet and not settings.json:
        where = f" in {settings.output}" if settings.output else ""
        lines = [f"{counted(result['texts'], 'text')}{where}", *sentences(result)]
        print(printable("\n".join(lines)), file=sys.stderr)
    return result


def _identity(settings: PredictSettings, dtype: str, display: ProgressDisplay) -> Identity:
    """What the predictions depend on besides the input."""
    options = {
        "--text-field": settings.text_field,
        "--pair-field": settings.pair_field,
        "--id-field": settings.id_field,
        "--encoding": settings.encoding,
        "--calibrate": settings.calibrate,
        "--dtype": dtype.removeprefix("torch."),
    }
    return Identity("predict", settings.model, (model_digest(settings.model, progress=display.job),), options)


def _fields(facts: TaskFacts, settings: PredictSettings) -> FieldNames:
    """The fields of the input: the same as in training, unless others are given."""
    trained = {name: facts.fields.get(name) for name in ("text", "pair", "id")}
    given = {"text": settings.text_field, "pair": settings.pair_field, "id": settings.id_field}
    return FieldNames(**{name: given[name] or trained[name] for name in given})


def _classes(model: TaskModel, facts: TaskFacts, settings: PredictSettings, machine: Machine) -> Answer:
    """Labels with the probability of every class."""
    temperature = facts.temperature if settings.calibrate else 1.0
    names = model.labels.names
    encoder = Encoder.of(model.tokenizer, model.labels, max_length=facts.max_length, long_text=facts.long_text)

    def predict_batch(batch: Sequence[Input]) -> Iterator[dict[str, Any]]:
        rows = ExampleRows.of(encoder, batch)
        with machine.accelerator.autocast():
            logits = predict_logits(model, rows, tokens_per_micro_batch=settings.tokens_per_micro_batch)
        chances = probabilities(logits, model.labels.multi_label, temperature)
        for example, of_classes in zip(batch, chances.tolist(), strict=True):
            by_name = dict(zip(names, of_classes, strict=True))
            if model.labels.multi_label:
                answer: dict[str, Any] = {"labels": [name for name, p in by_name.items() if p >= facts.threshold]}
            else:
                answer = {"label": names[max(range(len(names)), key=of_classes.__getitem__)]}
            yield {"id": example.key, **answer, "probabilities": by_name}

    return predict_batch


def _entities(model: TaskModel, facts: TaskFacts, settings: PredictSettings, machine: Machine) -> Answer:
    """Entities with character offsets in the original text; the model reads the cleaned text."""
    from domain_ft.evaluation.tagging import tag_texts

    def answer(batch: Sequence[Input]) -> Iterator[dict[str, Any]]:
        with machine.accelerator.autocast():
            found = tag_texts(
                model, batch, tokens_per_micro_batch=settings.tokens_per_micro_batch, max_length=facts.max_length
            )
            for text, line in zip(batch, found, strict=True):
                yield {"id": text.key, "entities": _in_original(text, line["entities"])}

    return answer


def _in_original(text: Input, entities: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entities of the cleaned text, with offsets in the original."""
    if text.given == text.text or not entities:
        return list(entities)
    aligned = Aligned.of(text.given)
    moved = []
    for entity in entities:
        start, end = aligned.given_span(entity["start"], entity["end"])
        moved.append({**entity, "start": start, "end": end, "text": text.given[start:end]})
    return moved
