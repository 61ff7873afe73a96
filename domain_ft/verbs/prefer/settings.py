"""The settings of `prefer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from domain_ft.checking import REQUIRED, Range
from domain_ft.verbs.groups import (
    AnswerOptions,
    ChatRecordOptions,
    EncodingOptions,
    ForgettingOptions,
    HeldOutShare,
    Length,
    MachineOptions,
    MethodOptions,
    ModelOptions,
    PositiveFloat,
    PositiveInt,
    RunOptions,
    ScreenOptions,
    TrainingOptions,
)

LossName = Literal["dpo", "robust", "ipo", "hinge", "kto", "orpo", "simpo", "cpo"]


@dataclass(frozen=True, kw_only=True)
class PreferSettings(
    EncodingOptions,
    ChatRecordOptions,
    ModelOptions,
    MethodOptions,
    TrainingOptions,
    ForgettingOptions,
    AnswerOptions,
    MachineOptions,
    RunOptions,
    ScreenOptions,
    group="Preferences",
):
    """Teach a decoder which of two answers people prefer, and measure whether its answers got better or only longer.

    The reference is the model that you name, with its adapters merged. The run folder holds the adapter in PEFT's
    format, the scores before and after, and a page of prompts with both models' answers.
    """

    data: str = REQUIRED
    """The preferences: a JSONL, JSON, CSV, TSV or Parquet file, or hf:ID of a data set on the Hub. A record has a
    prompt, a chosen and a rejected answer; or, for --loss kto, a prompt, a completion and a label."""

    format: Literal["auto", "pairs", "transcript", "compared", "ranking", "rated"] = "auto"
    """The format of the records: chosen and rejected answers (pairs); dialogues as one text, as in HH-RLHF
    (transcript); two answers and the winner (compared); several answers with scores or ranks, as in UltraFeedback
    (ranking); or single answers with a label (rated). auto detects it from the fields of the first record."""

    prompt_field: str | None = None
    """The field with the prompt. Several, separated by commas, are joined by a blank line. By default a field with a
    common name, such as prompt."""

    chosen_field: str | None = None
    """The field with the better answer, by default chosen."""

    rejected_field: str | None = None
    """The field with the worse answer, by default rejected."""

    score_field: str | None = None
    """For ranking: the field of an answer with its score or, if its name begins with rank, its rank."""

    test: str | None = None
    """The preferences to measure before and after training. By default a part of --data."""

    test_fraction: HeldOutShare = 0.1
    """The fraction of the prompts to hold out if --test is not given. Near copies stay together."""

    model: str = "smollm2"
    """The model, usually a run folder of `instruct`; or an embedded name (smollm2), a folder, or a Hub id."""

    loss: LossName = "dpo"
    """The loss. dpo is the usual one; robust is for labels that are wrong at a known rate; ipo and hinge stop at a
    margin; simpo, cpo and orpo need no reference; kto learns from single answers that are good or bad."""

    beta: PositiveFloat | None = None
    """How strongly the loss reacts to a margin. By default 0.1, and 2 for simpo."""

    label_smoothing: Annotated[float, Range(at_least=0), Range(below=0.5)] | None = None
    """For dpo and robust: the share of pairs whose answers are assumed to be in the wrong order. By default 0 for dpo,
    and 0.1 for robust."""

    gamma: Annotated[float, Range(at_least=0), Range(at_most=1e6)] | None = None
    """For simpo: the margin by which the better answer should win, by default 1."""

    sft_weight: Annotated[float, Range(at_least=0), Range(at_most=1e6)] | None = None
    """The weight of the likelihood of the better answer, per token. By default 1 for orpo and cpo, whose papers have
    this term, and 0 for the others."""

    length_weight: Annotated[float, Range(at_least=0), Range(at_most=1)] | None = None
    """For dpo, robust and hinge: the weight of the tokens by which one answer is longer than the other (LD-DPO). By
    default 1; less keeps the model from learning that longer is better."""

    max_length: Length = 512
    """The maximum number of tokens in a prompt with an answer; the end of a longer answer is cut. A pair that loses a
    whole answer is left out and reported."""

    tokens_per_step: PositiveInt = 4096
    """Tokens in an optimiser step, over all micro-batches and processes. Both answers of a pair count with their
    prompt."""

    evaluation_tokens: PositiveInt = 20_000
    """The maximum number of held-out tokens to score in the test pairs, and again in the control corpus."""
