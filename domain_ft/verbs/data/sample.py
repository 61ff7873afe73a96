"""`domain-ft data sample`: a few conversations as the model reads them, with the trained tokens in colour.

sample(DataSampleSettings(data="mine.jsonl", model="smollm2")).samples[0].trained_tokens
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer

from domain_ft.corpus.conversations.conversation import Conversation
from domain_ft.corpus.conversations.formats import FieldChoice
from domain_ft.corpus.conversations.reading import iterate_conversations
from domain_ft.corpus.conversations.rendering import ChatTemplate, Rendered
from domain_ft.corpus.conversations.rows import trained_mask
from domain_ft.corpus.left_out import LeftOut, sentences
from domain_ft.corpus.readers.base import BadRecords, Reject
from domain_ft.corpus.shuffling import beginning
from domain_ft.corpus.tokens import plain_backend
from domain_ft.embedded.loading import find
from domain_ft.errors import CorpusError
from domain_ft.models.model_files import load_tokenizer
from domain_ft.progress import Progress
from domain_ft.report.plain import plain
from domain_ft.storage import user_path
from domain_ft.terminal_text import printable
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.data.settings import DataSampleSettings
from domain_ft.wording import counted

STYLES = {"trained": "bold green", "read": "dim", "cut": "red strike"}
MARKS = {"trained": "⟦{}⟧", "read": "{}", "cut": "⟨{}⟩"}
"""Marks around the parts of a text if the output has no colours, such as a file or a pipe."""


@dataclass(frozen=True)
class Sample:
    """A conversation as a model reads it, or a part of it if the template renders it in several texts.

    Attributes:
        id, file, line: of the conversation.
        text: including the template's special tokens.
        spans: (first, end) of each part before the cut that is trained on, as indices of characters in `text`.
        cut_at: the index of the first character that is cut; None if none is.
        tokens: the number of tokens in the training row, which ends with the last token that is trained on.
        trained_tokens: the number of tokens that are trained on.
        cut_tokens: the number of tokens beyond the maximum length, up to the last one to train on.
    """

    id: str
    file: str
    line: int | None
    text: str
    spans: tuple[tuple[int, int], ...]
    cut_at: int | None
    tokens: int
    trained_tokens: int
    cut_tokens: int

    @property
    def parts(self) -> Iterator[tuple[str, str]]:
        """The text in parts, each marked as `read`, `trained` or `cut`."""
        end = len(self.text) if self.cut_at is None else self.cut_at
        place = 0
        for first, last in self.spans:
            yield "read", self.text[place:first]
            yield "trained", self.text[first:last]
            place = last
        yield "read", self.text[place:end]
        yield "cut", self.text[end:]


@dataclass(frozen=True)
class Samples:
    """A few conversations of a file.

    Attributes:
        template: `model` for the model's own chat template, `plain` if it has none.
        conversations: the number in the file, without `rejects`.
        drawn: the number of conversations that were drawn; each yields one or more samples.
        rejects: records that are not conversations, or that are marked as excluded from training.
        samples: in the order of the file.
        unread_fields: for each field that is not read, the number of records that have it.
    """

    template: str
    conversations: int
    drawn: int
    rejects: tuple[Reject, ...]
    samples: tuple[Sample, ...]
    unread_fields: dict[str, int] = field(default_factory=dict)


def sample(settings: DataSampleSettings, progress: Progress | None = None) -> Samples:
    """Render a few conversations of a file, drawn by the seed. Records that cannot be read are skipped.

    Raises:
        CorpusError: there is no such file, it holds no conversation, or the template cannot render a
            conversation.
        ModelError: there is no such model.
    """
    rejects: list[Reject] = []
    bad = BadRecords("skip", rejects.append, settings.encoding)
    path = user_path(settings.data)
    left_out = LeftOut()
    choice = FieldChoice.of(settings)
    conversations = list(iterate_conversations(path, choice, bad, left_out=left_out, marked=rejects.append))
    if not conversations:
        reason = f": {rejects[0].reason}" if rejects else ""
        raise CorpusError(
            f"the file holds no conversation{reason}",
            where=settings.data,
            fix="domain-ft data check lists the problems",
        )
    tokenizer = load_tokenizer(find(settings.model, progress=progress), settings.model)
    template, backend = ChatTemplate.of(tokenizer), plain_backend(tokenizer)
    backend.encode_special_tokens = False  # the template's special tokens are tokens, not text
    max_length = min(settings.max_length, tokenizer.model_max_length)
    chosen = sorted(beginning(settings.count, len(conversations), settings.seed, "sample").tolist())
    samples = tuple(
        _sample(conversations[place], rendered, backend, max_length)
        for place in chosen
        for rendered in template.render(conversations[place])
    )
    unread = left_out.to_result()["unread_fields"]
    template_name = "plain" if template.is_plain else "model"
    return Samples(template_name, len(conversations), len(chosen), tuple(rejects), samples, unread)


def run(settings: DataSampleSettings) -> dict[str, Any]:
    """The verb: print the samples."""
    with ProgressDisplay(quiet=settings.json) as display:
        found = sample(settings, display.job)
    console = Console(quiet=settings.json, highlight=False)
    coloured = console.color_system is not None
    for one in found.samples:
        console.print(plain(f"{one.file}, line {one.line}: {_counts(one)}", style="bold"))
        console.print(_shown(one, coloured))
        console.print()
    console.print(_legend(found, settings, coloured))
    if found.rejects:
        first, records = found.rejects[0], counted(len(found.rejects), "record is", "records are")
        console.print(
            plain(f"note: {records} left out, the first on line {first.line}: {first.reason}", style="yellow")
        )
    for sentence in sentences({"unread_fields": found.unread_fields}):
        console.print(plain(f"note: {sentence}", style="yellow"))
    return {"command": "data sample", "model": settings.model} | dataclasses.asdict(found)


def _sample(conversation: Conversation, rendered: Rendered, backend: Tokenizer, max_length: int) -> Sample:
    """A rendered conversation. As in `instruct`, tokens are counted only up to the last one that is trained on."""
    encoding = backend.encode(rendered.text, add_special_tokens=False)
    learned = np.flatnonzero(trained_mask(rendered, encoding))
    kept = learned[learned < max_length]
    uncut, tokens = (int(places[-1]) + 1 if len(places) else 0 for places in (learned, kept))
    cut_at = int(encoding.offsets[max_length][0]) if uncut > max_length else None
    end = len(rendered.text) if cut_at is None else cut_at
    return Sample(
        conversation.id,
        conversation.file,
        conversation.line,
        rendered.text,
        spans=tuple((first, min(last, end)) for first, last in rendered.spans if first < end),
        cut_at=cut_at,
        tokens=tokens,
        trained_tokens=len(kept),
        cut_tokens=max(0, uncut - max_length),
    )


def _counts(one: Sample) -> str:
    counts = f"{one.tokens:,} tokens, {one.trained_tokens:,} trained on"
    counts += f", {one.cut_tokens:,} cut" if one.cut_tokens else ""
    if one.trained_tokens:
        return counts
    cause = (
        ": its answers begin after --max-length (give a larger one, or shorten the prompt)" if one.cut_tokens else ""
    )
    return f"{counts}; instruct leaves it out, because no trained token remains{cause}"


def _shown(one: Sample, coloured: bool) -> Text:
    """The text with colours or marks, and without control characters."""
    shown = Text()
    for kind, text in one.parts:
        text = text.rstrip() if kind == "cut" else text
        if text:
            _append(shown, kind, printable(text), coloured)
    shown.rstrip()
    return shown


def _legend(found: Samples, settings: DataSampleSettings, coloured: bool) -> Text:
    """What the colours or marks mean, and which template was used."""
    template = f"the chat template of {settings.model}" if found.template == "model" else "the plain chat template"
    texts = f" in {len(found.samples)} texts" if len(found.samples) > found.drawn else ""
    legend = plain(f"{found.drawn} of {counted(found.conversations, 'conversation')}{texts}, rendered by {template}: ")
    for kind, words in (("trained", "trained on"), ("read", "read"), ("cut", "cut off")):
        _append(legend, kind, words, coloured)
        legend.append(", " if kind != "cut" else "")
    return legend


def _append(to: Text, kind: str, text: str, coloured: bool) -> None:
    to.append(text if coloured else MARKS[kind].format(text), STYLES[kind] if coloured else "")
