"""`domain-ft embed`: a vector for each text, in the order of the input, as JSON lines, a NumPy array or a Parquet file.

Texts are read, embedded and written in batches, so memory does not depend on their number. A stopped call continues
with --resume, unless it writes Parquet: the input is read again, which is cheap, and texts are embedded from the first
that has no vector.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import sys
import time
from functools import partial
from typing import Any, BinaryIO, TextIO

from domain_ft.corpus.left_out import LeftOut, sentences
from domain_ft.corpus.tasks.fields import FieldNames
from domain_ft.corpus.tasks.reading import iterate_inputs
from domain_ft.embedded.loading import load_sentence_model, model_digest
from domain_ft.models.sentence_model import SentenceModel
from domain_ft.terminal_text import printable
from domain_ft.training.loop import release_free_memory
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.embed.outputs import check_output, open_vectors
from domain_ft.verbs.embed.settings import EmbedSettings
from domain_ft.verbs.shared.machine import choose_machine
from domain_ft.verbs.shared.stream_state import Identity
from domain_ft.verbs.shared.streams import bad_records, open_input, open_rejects, pass_over
from domain_ft.wording import counted

BATCH = 512
"""Texts per batch: enough to group texts of similar length, but few enough to need little memory."""


def embed(settings: EmbedSettings, stdin: BinaryIO | None = None, stdout: TextIO | None = None) -> dict[str, Any]:
    """Embed every text of --input, and return the counts.

    Args:
        stdin: what `--input -` reads; sys.stdin by default.
        stdout: where JSON lines go without --output; sys.stdout by default.

    Raises:
        UserError: the model, the input or the output cannot be used. Vectors in a .jsonl or .npy file are kept
            for --resume.
    """
    began = time.perf_counter()
    check_output(settings, stdin)
    left_out = LeftOut()
    counts = {"tokens": 0, "truncated": 0}
    machine = choose_machine(settings)
    with ProgressDisplay(quiet=settings.quiet) as display, contextlib.ExitStack() as stack:
        model = load_sentence_model(
            settings.model, device=machine.device, dtype=machine.weights_dtype("lora"), progress=display.job
        )
        prompt = model.prompt(settings.prompt)
        dimensions = model.kept_dimensions(settings.dimensions)
        _say_notes(model, settings, display)
        identity = partial(_identity, settings, model, prompt, dimensions, display)
        rejects = stack.enter_context(open_rejects(settings, left_out))
        output = stack.enter_context(open_vectors(settings, stdout or sys.stdout, dimensions, identity))
        texts = iterate_inputs(
            open_input(settings.input, stdin),
            FieldNames(text=settings.text_field),
            settings.id_field,
            bad_records(rejects, settings.encoding, "have such records listed: --rejects F"),
            left_out,
            text_required=settings.text_field is not None,
        )
        pass_over(texts, output, rejects, settings)
        written, started = output.done, time.perf_counter()
        while batch := list(itertools.islice(texts, BATCH)):
            with machine.accelerator.autocast():
                found = model.encode(
                    [text.given for text in batch],
                    prompt=prompt,
                    tokens_per_micro_batch=settings.tokens_per_micro_batch,
                )
            output.write(model.shortened(found.vectors, dimensions), batch)
            written += len(batch)
            counts["tokens"] += found.tokens
            counts["truncated"] += int(found.cut.sum())
            display.job("embedding", written, None)
            release_free_memory()
        embedding_seconds = time.perf_counter() - started
    return {
        "command": "embed",
        "model": settings.model,
        "device": machine.device.type,
        "texts": written,
        "done_before": output.done,
        "dimensions": dimensions,
        "pooling": model.facts.pooling,
        "normalised": model.facts.normalise,
        "prompt": prompt,
        "max_length": model.max_length,
        **counts,  # of this call
        **left_out.to_result(),
        "rejects": str(rejects.path) if rejects and left_out.records else None,
        "tokens_per_second": counts["tokens"] / embedding_seconds,
        "wall_seconds": time.perf_counter() - began,
        "output": str(settings.output) if settings.output else None,
    }


def run(settings: EmbedSettings) -> dict[str, Any]:
    """The verb: embed, and print a summary to standard error."""
    result = embed(settings)
    if not settings.quiet and not settings.json:
        where = f" in {settings.output}" if settings.output else ""
        speed = f"; {result['tokens_per_second']:,.0f} tokens/s" if result["tokens"] else ""
        lines = [f"{counted(result['texts'], 'vector')} of {result['dimensions']:,} dimensions{where}{speed}"]
        if result["truncated"]:
            longer = counted(result["truncated"], "text is longer", "texts are longer")
            lines.append(f"{longer} than {result['max_length']:,} tokens: only the beginning was read")
        print(printable("\n".join([*lines, *sentences(result)])), file=sys.stderr)
    return result


def _say_notes(model: SentenceModel, settings: EmbedSettings, display: ProgressDisplay) -> None:
    for note in model.notes:
        display.say(f"note: {note}")
    prompts = model.facts.prompts
    if settings.prompt is None and model.facts.default_prompt is None and any(prompts.values()):
        display.say(f"note: the model has the prompts {', '.join(prompts)}, but none is used; --prompt NAME uses one")


def _identity(
    settings: EmbedSettings, model: SentenceModel, prompt: str, dimensions: int, display: ProgressDisplay
) -> Identity:
    """What the vectors depend on besides the input."""
    options = {
        "--text-field": settings.text_field,
        "--id-field": settings.id_field,
        "--encoding": settings.encoding,
        "--prompt": prompt or None,
        "--dimensions": dimensions,
        "--dtype": str(model.base.model.dtype).removeprefix("torch."),
    }
    facts = hashlib.sha256(json.dumps(dataclasses.asdict(model.facts), sort_keys=True).encode()).hexdigest()
    digests = (model_digest(settings.model, progress=display.job), f"sha256:{facts}")
    return Identity("embed", settings.model, digests, options)
