"""`domain-ft data mix`: mix files of conversations by weight, for example your own with general ones to reduce
forgetting.

mix(DataMixSettings(data=("mine.jsonl:0.8", "general.jsonl:0.2"), output=Path("mixed.jsonl"))).files
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from domain_ft.checking import refuse
from domain_ft.corpus.conversations.formats import FieldChoice, to_chat
from domain_ft.corpus.conversations.reading import iterate_conversations
from domain_ft.corpus.left_out import LeftOut, sentences
from domain_ft.errors import CorpusError, SettingsError
from domain_ft.locks import writing_beside
from domain_ft.randomness import generator
from domain_ft.report.plain import plain
from domain_ft.storage import user_path, write_atomic
from domain_ft.verbs.data.files import Refusing, json_line, refuse_existing
from domain_ft.verbs.data.settings import DataMixSettings
from domain_ft.wording import counted

SMALLEST, LARGEST = 1e-6, 1e6
"""The limits of a weight. Only the ratios of weights matter, so no wider range is needed."""

MOST = 10_000_000
"""The maximum number of conversations in a mixture with repeats: all are held in memory."""


@dataclass(frozen=True)
class Taken:
    """What a mixture took from a file.

    Attributes:
        file: as it was given.
        weight: the requested share of the mixture.
        conversations: the number in the file.
        taken: the number in the mixture; more than in the file if some were repeated.
        share: the actual share of the mixture.
    """

    file: str
    weight: float
    conversations: int
    taken: int
    share: float


@dataclass(frozen=True)
class Mixture:
    """A mixture that was written.

    Attributes:
        output: the file.
        conversations: the number in it.
        files: what was taken from each, in the order given.
        notes: what the user should know, in sentences.
    """

    output: Path
    conversations: int
    files: tuple[Taken, ...]
    notes: tuple[str, ...]


def mix(settings: DataMixSettings) -> Mixture:
    """Write all conversations of the first file, and a share of each other file.

    The number taken from another file is the number in the first file, times the ratio of their weights. Without
    --repeat it is at most the number in that other file. Which conversations are drawn depends on the seed and on the
    position of the file in the list. A larger weight adds conversations to those that a smaller one draws.

    Raises:
        SettingsError: a weight is missing or outside its limits, a file is given twice, the output exists already or is
            not .jsonl, or the mixture would have more than MOST conversations.
        RecordError: a record cannot be read, or is not a conversation.
        CorpusError: a file is missing, or holds no conversations.
    """
    weights = _weights(settings.data)
    if settings.output.suffix.lower() != ".jsonl":
        raise SettingsError(f"--output {settings.output} does not end in .jsonl", fix="give a name that ends in .jsonl")
    refuse_existing(settings.output)
    left_out = {file: LeftOut() for file in weights}
    lines = [list(_chat_lines(file, settings, left_out[file])) for file in weights]
    first, *_ = weights.values()
    sizes = [round(len(lines[0]) * weight / first) for weight in weights.values()]
    if settings.repeat and sum(sizes) > MOST:
        raise SettingsError(
            f"the mixture would have {counted(sum(sizes), 'conversation')}, but at most {MOST:,} are supported",
            where="the weights relative to the first file's",
            fix="give the first file a larger weight, or the others smaller ones",
        )
    drawn = [
        _draw(len(own), count, settings, number) for number, (own, count) in enumerate(zip(lines, sizes, strict=True))
    ]
    mixed = [own[index] for own, indices in zip(lines, drawn, strict=True) for index in indices]
    order = generator(settings.seed, "order of a mixture").permutation(len(mixed))
    with writing_beside(settings.output):
        refuse_existing(settings.output)  # again: another process may have created it meanwhile
        write_atomic(settings.output, b"".join(mixed[index] for index in order))
    taken = tuple(
        Taken(file, weight / math.fsum(weights.values()), len(own), len(indices), len(indices) / len(mixed))
        for (file, weight), own, indices in zip(weights.items(), lines, drawn, strict=True)
    )
    return Mixture(settings.output, len(mixed), taken, (*_notes(taken, sizes), *_left_out_notes(left_out)))


def run(settings: DataMixSettings) -> dict[str, Any]:
    """The verb: mix, and print what was taken from each file."""
    mixture = mix(settings)
    console = Console(quiet=settings.json, highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    for heading in ("holds", "taken", "share", "asked for"):
        table.add_column(heading, justify="right")
    for taken in mixture.files:
        table.add_row(
            plain(taken.file),
            f"{taken.conversations:,}",
            f"{taken.taken:,}",
            f"{taken.share:.1%}",
            f"{taken.weight:.1%}",
        )
    console.print(table)
    for note in mixture.notes:
        console.print(plain(f"note: {note}", style="yellow"))
    console.print(plain(f"\n{counted(mixture.conversations, 'conversation')} in {mixture.output}"), soft_wrap=True)
    return {"command": "data mix"} | dataclasses.asdict(mixture) | {"output": str(mixture.output)}


def _weights(given: Sequence[str]) -> dict[str, float]:
    """The weight of each file, in the order given. All problems are reported at once."""
    weights: dict[str, float] = {}
    problems = []
    for one in given:
        file, _, number = one.rpartition(":")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not file or math.isnan(weight):
            problems.append(f"{one}: needs a colon and a weight above 0, such as {file or one}:0.2")
        elif not SMALLEST <= weight <= LARGEST:
            problems.append(f"{one}: the weight must be at least {SMALLEST:g} and at most {LARGEST:g}")
        elif file in weights:
            problems.append(f"{one}: the file is given twice; give it once, with the sum of the weights")
        else:
            weights[file] = weight
    refuse(problems)
    return weights


def _chat_lines(file: str, settings: DataMixSettings, left_out: LeftOut) -> Iterator[bytes]:
    """The conversations of a file as lines in OpenAI's chat format."""
    found = False
    path, choice = user_path(file), FieldChoice.of(settings)
    for conversation in iterate_conversations(path, choice, Refusing(settings.encoding), left_out=left_out):
        found = True
        yield json_line(to_chat(conversation), conversation.place)
    if not found:
        marked = left_out.records
        records = "its one record is" if marked == 1 else f"all {marked:,} records are"
        why = f"{records} marked as excluded from training" if marked else "it has no records"
        raise CorpusError(
            f"the file holds no conversation: {why}",
            where=file,
            fix="leave the file out, or give a file with conversations; domain-ft data check lists what is in it",
        )


def _draw(count: int, size: int, settings: DataMixSettings, number: int) -> npt.NDArray[np.int64]:
    """The indices of `size` conversations to take from a file with `count`; without --repeat, at most `count`.

    Each pass over the file has its own order; the last pass may end early.
    """
    passes = -(-size // count) if settings.repeat else 1
    orders = [generator(settings.seed, "mixture", number, one).permutation(count) for one in range(passes)]
    return np.concatenate([*orders, np.zeros(0, np.int64)])[:size]


def _left_out_notes(left_out: Mapping[str, LeftOut]) -> Iterator[str]:
    """Sentences about what is in the files but not in the mixture."""
    for file, own in left_out.items():
        if own.records:
            are = "is" if own.records == 1 else "are"
            marked = f"{counted(own.records, 'record')} marked as excluded from training"
            yield f"{file}: {marked} {are} not in the mixture"
        for sentence in sentences({"unread_fields": own.to_result()["unread_fields"]}):
            yield f"{file}: {sentence}; they are not in the mixture"


def _notes(taken: Sequence[Taken], sizes: Sequence[int]) -> Iterator[str]:
    for own, count in zip(taken, sizes, strict=True):
        if own.taken < count:
            yield (
                f"{own.file} holds {counted(own.conversations, 'conversation')}, and its weight asks for {count:,}; "
                "with --repeat, conversations are used again"
            )
        elif own.taken > own.conversations:
            yield f"{own.file}: each conversation is used {own.taken / own.conversations:.1f} times on average"
        elif count == 0:
            yield f"{own.file} is not in the mixture: its weight asks for less than one conversation"
