"""The options that several verbs share, in groups: the only place where such an option, its default, its
limits and its help are written.

One small frozen dataclass a group; a verb's settings (`verbs/VERB/settings.py`) inherit from the groups it has.
The docstring under an attribute is its help, `group=` the heading it is listed under. `checking` says how they are
checked and read.

    AdaptSettings(corpus="legal", rank=8)                                # Python
    AdaptSettings.from_toml("runs/legal-minilm/config.toml", rank=8)     # a run again, with one setting changed
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from domain_ft.checking import PASSING, REQUIRED, Formerly, Range, Settings


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
    """The most tokens in a sequence. Longer documents are cut into several; nothing is dropped."""

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
    """Tokens in an optimiser step, over all micro-batches and processes."""

    tokens_per_micro_batch: Annotated[PositiveInt | None, Formerly("tokens_per_pass")] = None
    """Tokens in a micro-batch, which goes through the model at once. By default as many as fit into free memory and the
    device is fastest with. Fewer take less memory; the arithmetic of a step stays the same."""

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
