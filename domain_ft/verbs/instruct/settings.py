"""The settings of `instruct`."""

from __future__ import annotations

from dataclasses import dataclass

from domain_ft.checking import REQUIRED
from domain_ft.verbs.groups import (
    AnswerOptions,
    ChatRecordOptions,
    ConversationOptions,
    ForgettingOptions,
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
    ChatRecordOptions,
    ModelOptions,
    MethodOptions,
    TrainingOptions,
    ForgettingOptions,
    AnswerOptions,
    MachineOptions,
    RunOptions,
    ScreenOptions,
    group="Conversations",
):
    """Teach a decoder to answer, from examples of prompts and answers, and measure what it gained and forgot.

    The model is trained on the answers only. Examples are rendered with the model's chat template, or with a plain one
    if it has none. The run folder holds the adapter in PEFT's format, the template, the scores before and after, and a
    page of prompts with both models' answers.
    """

    data: str = REQUIRED
    """The training examples: a JSONL, JSON, CSV, TSV or Parquet file, or hf:ID of a data set on the Hub."""

    test: str | None = None
    """The examples to measure before and after training. By default a part of --data."""

    test_fraction: HeldOutShare = 0.1
    """The fraction of the examples to hold out if --test is not given. Near copies stay together."""

    model: str = "smollm2"
    """The model: an embedded name (smollm2), a folder, a run folder of `adapt` or `instruct`, or a Hub id."""

    max_length: Length = 512
    """The maximum number of tokens in an example; the end of a longer one is cut. An example that loses all its answers
    is left out and reported."""

    tokens_per_step: PositiveInt = 2048
    """Tokens in an optimiser step, over all micro-batches and processes."""

    evaluation_tokens: PositiveInt = 10_000
    """The maximum number of held-out tokens to score in the test examples, and again in the control corpus."""
