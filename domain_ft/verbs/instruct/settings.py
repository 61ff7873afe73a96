"""The settings of `instruct`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from domain_ft.checking import REQUIRED
from domain_ft.verbs.groups import (
    AnswerOptions,
    ConversationOptions,
    HeldOutShare,
    Length,
    MachineOptions,
    MethodOptions,
    ModelOptions,
    PositiveInt,
    RunOptions,
    ScreenOptions,
    TrainingOptions,
)


@dataclass(frozen=True, kw_only=True)
class InstructSettings(
    ConversationOptions,
    ModelOptions,
    MethodOptions,
    TrainingOptions,
    AnswerOptions,
    MachineOptions,
    RunOptions,
    ScreenOptions,
    group="Conversations",
):
    """Teach a decoder to answer by examples of what is asked and answered, and measure what it gained and forgot.

    Only the answers are learned. The examples are rendered by the model's own chat template, or by a plain one where it
    has none. The run folder then holds the adapter in PEFT's format, the template, the numbers before and after, and a
    page of prompts with both models' answers.
    """

    data: str = REQUIRED
    """The examples to learn from: a JSONL, JSON, CSV, TSV or Parquet file, or hf:ID of a data set on the hub."""

    test: str | None = None
    """The examples that are measured before and after. A part of --data where none are given."""

    test_fraction: HeldOutShare = 0.1
    """The share of the examples that is held out where no --test is given: whole groups of near copies at a time."""

    id_field: str | None = None
    """The field that names a record. By default its place in the file."""

    group_field: str | None = None
    """The field that says which records share a source: they are all learned from, or all held out."""

    on_bad_record: Literal["stop", "skip"] = "stop"
    """What to do with a record that cannot be read: stop with its line, or skip it and list it in rejects.jsonl."""

    template_date: str | None = None
    """The day, as YYYY-MM-DD, for a chat template that writes today's date. By default that on which the run began."""

    model: str = "smollm2"
    """The model: an embedded name (smollm2), a folder, a run folder of `adapt` or `instruct`, or a hub id."""

    max_length: Length = 512
    """Tokens of an example at most; of a longer one the end is cut. One whose answers are cut away altogether is not
    trained on, and said so."""

    tokens_per_step: PositiveInt = 2048
    """Tokens in an optimiser step, over all micro-batches and processes."""

    control: str | None = None
    """A corpus that shows what is forgotten. By default medical for a model that was adapted to legal text, legal for
    all other; none for no such check."""

    evaluation_tokens: PositiveInt = 10_000
    """At most this many held-out tokens of the test examples, and of the control corpus, are read."""
