"""Groups of options that several verbs share, each option with its default, limits and help.

Each group is a frozen dataclass; a verb's settings (`verbs/VERB/settings.py`) inherit from the groups that it needs,
and override options that differ. The docstring under an attribute is its help text, and `group=` is the heading in
--help. `checking` validates the values.

    AdaptSettings(corpus="legal", rank=8)                                # Python
    AdaptSettings.from_toml("runs/legal-minilm/config.toml", rank=8)     # repeat a run with one setting changed
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
        return f"must be all-linear, attention or a regular expression: {error}"
    return None


# Upper limits are far beyond any use: a larger value is a typo, and would overflow or never end.
PositiveInt = Annotated[int, Range(at_least=1), Range(at_most=10**12)]


PositiveFloat = Annotated[float, Range(above=0), Range(at_most=1e9)]


Length = Annotated[int, Range(at_least=8), Range(at_most=10**7)]


Seed = Annotated[int, Range(at_least=0), Range(at_most=2**63 - 1)]


HeldOutShare = Annotated[float, Range(above=0, at_most=0.9)]


def _dimensions(value: str) -> str | None:
    parts = value.split(",")
    if all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        return None
    return "must be whole numbers above 0, separated by commas, such as 64,128,384"


def _encoding(value: str) -> str | None:
    try:
        codecs.lookup(value)
    except (LookupError, ValueError):
        return "is not a known encoding; examples are UTF-8, CP932, EUC-JP, GB18030, UTF-16 and WINDOWS-1252"
    return None


@dataclass(frozen=True, kw_only=True)
class EncodingOptions(Settings, group="Text"):
    """The character encoding of text files."""

    encoding: Annotated[str, _encoding] | None = None
    """The encoding of the text files, such as CP932, EUC-JP, GB18030, UTF-16 or WINDOWS-1252. By default UTF-8; the
    encoding is never guessed. Parquet, PDF and DOCX files do not need it."""


@dataclass(frozen=True, kw_only=True)
class TextStreamOptions(EncodingOptions, group="Texts"):
    """A stream of texts. The output has their order."""

    input: str = REQUIRED
    """The texts: a JSONL, JSON, CSV, TSV or Parquet file, a text file with one text per line, or - for standard
    input."""

    rejects: Path | None = None
    """The file that lists unreadable records, each with the reason. By default OUTPUT.rejects.jsonl. If the output goes
    to standard output, the first such record stops the run."""

    tokens_per_micro_batch: Annotated[PositiveInt, Formerly("tokens_per_pass")] = 4096
    """Tokens that the model processes at once."""


@dataclass(frozen=True, kw_only=True)
class CorpusOptions(EncodingOptions, group="Text"):
    """The text, and how to read it."""

    corpus: str = REQUIRED
    """The text: a name from `domain-ft data list`, a recipe (.toml), a text, Markdown, JSONL, CSV, Parquet or
    compressed file, a folder of such files, or hf:ID of a data set on the Hub. With `pip install domain-ft[documents]`
    also HTML, XML, e-mail, DOCX and PDF files."""

    text_field: str | None = None
    """The field or column with the text. Several names, separated by commas, are joined; a single name may contain a
    comma. By default one with a usual name, such as text; otherwise the only field that holds text."""

    on_bad_record: Literal["stop", "skip"] = "stop"
    """What to do with a record that cannot be read: stop and name its line, or skip it and list it in rejects.jsonl."""


@dataclass(frozen=True, kw_only=True)
class ExampleOptions(EncodingOptions, group="Task"):
    """The labelled examples, and how to read them."""

    train: str | None = None
    """The training examples: a JSONL, JSON, CSV, TSV or Parquet file, a folder with a subfolder of texts for each
    class, or hf:ID of a data set on the Hub."""

    validation: str | None = None
    """The examples that the best model is chosen on. By default a part of the training examples."""

    test: str | None = None
    """The examples that the reported scores are measured on. By default a part of the training examples."""

    validation_fraction: HeldOutShare = 0.1
    """The fraction of the training examples to use for validation if --validation is not given."""

    test_fraction: HeldOutShare = 0.2
    """The fraction of the training examples to use for testing if --test is not given."""

    test_ids: Path | None = None
    """A file with the ids of the training examples to use for testing: one id per line, a JSON list, or the keys of
    a JSON object."""

    id_field: str | None = None
    """The field that names a record. By default a record is named by its position in the file."""

    group_field: str | None = None
    """The field that names the source of a record, such as a patient or an author. Records with the same source go to
    the same split, and the bootstrap resamples them together."""

    remove_leaks: bool = False
    """Leave out training examples that are copies of validation or test examples, and validation examples that are
    copies of test examples. By default copies are only counted and listed."""

    on_bad_record: Literal["stop", "skip"] = "stop"
    """What to do with a record that cannot be read: stop and name its line, or skip it and list it in rejects.jsonl."""


@dataclass(frozen=True, kw_only=True)
class LabelOptions(Settings, group="Task"):
    """How labels are written."""

    label_separator: str | None = None
    """The separator between labels if one field holds several, such as | in civil|penal; \\n is a line break."""

    label_names: str | None = None
    """The class names in order, separated by commas, if labels are whole numbers from 0 or lists of 0 and 1."""

    label_kind: Literal["auto", "names"] = "auto"
    """How labels are read. auto stops if labels look like scores, several labels in one text or two spellings of one
    class. It reads NA and - as no label, and also -1 beside whole numbers from 0. names takes every label as the name
    of a class."""


@dataclass(frozen=True, kw_only=True)
class TaskOptions(ExampleOptions, LabelOptions, group="Task"):
    """The classification task."""

    task: str | None = None
    """A task that belongs to a corpus, such as legal/license-category; `domain-ft data list` lists them."""

    text_field: str | None = None
    """The field with the text. By default one with a usual name, such as text; otherwise the only one that holds
    text."""

    pair_field: str | None = None
    """The field with the second text, if each example is a pair of texts."""

    label_field: str | None = None
    """The field with the label, or with a list of labels; or the names of several columns of 0 and 1, separated by
    commas. By default a field with a common name, such as label."""


SpanOffsets = Literal["characters", "utf16", "bytes", "one-based", "inclusive", "one-based-inclusive"]


@dataclass(frozen=True, kw_only=True)
class TagOptions(ExampleOptions, group="Task"):
    """The texts with entities, and how to read them."""

    train: str = REQUIRED
    """The training texts: CoNLL columns; JSONL, JSON or Parquet with words and tags, or with texts and spans; exports
    of Prodigy, doccano, Label Studio or spaCy; PubTator, BioC, or a folder of BRAT files; or hf:ID of a data set on the
    Hub."""

    text_field: str | None = None
    """The field of a JSON record with the text. By default text."""

    tokens_field: str | None = None
    """The field of a JSON record with the words, by default tokens or words. For CoNLL columns, the number of the
    column, counted from 1; by default it is detected."""

    tags_field: str | None = None
    """The field with the tags of the words, by default tags, ner_tags or labels. For CoNLL columns, the number of the
    column, counted from 1; by default it is detected."""

    spans_field: str | None = None
    """The field with the entities of a text as character spans. By default entities, spans, label, labels or ents."""

    span_offsets: SpanOffsets = "characters"
    """How span offsets are counted. characters: Unicode characters from 0, with an exclusive end; utf16: UTF-16 code
    units, as in JavaScript and Java; bytes: UTF-8 bytes; one-based: from 1; inclusive: from 0 with an inclusive end;
    one-based-inclusive: from 1 with an inclusive end."""

    scheme: Literal["auto", "iob1", "iob2", "bioes", "bilou"] = "auto"
    """How tags mark where an entity begins and ends. auto detects it from the file."""


@dataclass(frozen=True, kw_only=True)
class LengthOptions(Settings, group="Task"):
    """The maximum length of the model's input."""

    max_length: Length = 256
    """The maximum number of tokens that the model reads at once, including special tokens."""


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(LengthOptions, group="Task"):
    """How an example becomes input of the model."""

    long_text: Literal["truncate", "head-tail", "windows"] = "truncate"
    """What to read of a text longer than --max-length: its beginning (truncate), its beginning and end (head-tail), or
    all of it in windows whose predictions are averaged (windows)."""


@dataclass(frozen=True, kw_only=True)
class TokenOptions(Settings, group="Text"):
    """How text becomes input of the model."""

    max_length: Length = 256
    """The maximum number of tokens in a sequence. Longer documents are split into several sequences; nothing is
    dropped."""

    mask_rate: Annotated[float, Range(above=0, below=1)] = 0.15
    """The fraction of tokens that are masked for an encoder to predict."""

    whole_word: bool = True
    """Mask whole words, not single tokens."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Settings, group="Model"):
    """The model."""

    model: str = "minilm"
    """The model: an embedded name (minilm, smollm2), a folder, a run folder, or a Hub id."""


@dataclass(frozen=True, kw_only=True)
class AdapterOptions(Settings, group="Model"):
    """The adapters."""

    rank: Annotated[int, Range(at_least=1), Range(at_most=65_536)] = 16
    """The rank of the adapters. A higher rank can learn more, and makes a larger adapter."""

    alpha: PositiveFloat | None = None
    """The scale of the adapters: their output is multiplied by alpha / rank. By default alpha is twice the rank."""

    rslora: bool = False
    """Multiply by alpha / sqrt(rank) instead of alpha / rank (rsLoRA), for high ranks."""

    targets: Annotated[str, _regular_expression] = "all-linear"
    """The layers that get an adapter: all-linear, attention, or a regular expression for their names."""

    dropout: Annotated[float, Range(at_least=0, below=1)] = 0.0
    """The dropout rate on the input of the adapters."""

    train_modules: tuple[str, ...] = ()
    """The name of a module to train in full, besides the adapters. Can be given several times."""

    base_dropout: bool = False
    """Keep the base model's dropout on during training. This is slower, and seldom better with adapters."""


@dataclass(frozen=True, kw_only=True)
class MethodOptions(AdapterOptions, group="Model"):
    """What to train."""

    method: Literal["lora", "dora", "full"] = "lora"
    """Train low-rank adapters (lora, dora) or all weights (full)."""


@dataclass(frozen=True, kw_only=True)
class TaskMethodOptions(AdapterOptions, group="Model"):
    """What to train in a task's model."""

    method: Literal["lora", "dora", "full", "head", "contrastive"] = "lora"
    """Train low-rank adapters (lora, dora) or all weights (full), each with a new head; or only a linear head on fixed
    features (head, a linear probe). For few labels: train adapters that bring texts of the same class together, then a
    linear head (contrastive, like SetFit)."""

    adapter: Literal["merge", "continue"] = "merge"
    """What to do with the adapter of an `adapt` run: merge it into the base model and train a new adapter (merge), so
    that the task cannot undo what was learned; or train it further (continue), which leaves a single adapter on the
    original base model."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Settings, group="Training"):
    """The length of the training, and the optimiser."""

    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = (("max_tokens", "max_steps", "epochs"),)

    max_tokens: PositiveInt | None = None
    """Train on this many tokens. By default `adapt` trains on 250,000 tokens, `instruct` and `prefer` for
    three epochs, and `classify` and `tag` for five epochs, but at least 200 steps (100 for `classify --method
    contrastive`)."""

    max_steps: PositiveInt | None = None
    """Train for this many optimiser steps, instead of --max-tokens."""

    epochs: PositiveFloat | None = None
    """Train for this many epochs, instead of --max-tokens."""

    tokens_per_step: PositiveInt = 4096
    """Tokens in an optimiser step, over all micro-batches and processes."""

    tokens_per_micro_batch: Annotated[PositiveInt | None, Formerly("tokens_per_pass")] = None
    """Tokens in a micro-batch, the part of a step that the model processes at once. By default as many as fit into free
    memory, up to the fastest size. Fewer tokens need less memory; the result of a step is the same."""

    activation_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Compute activations again in the backward pass: slower, with the same result, but far less memory. auto turns it
    on if memory is short; off turns it on only after memory has run out."""

    learning_rate: Annotated[float, Range(above=0, at_most=1)] | None = None
    """The peak learning rate. The default depends on the verb and the method."""

    lora_plus_ratio: PositiveFloat = 1.0
    """The learning rate of the adapters' B matrices relative to A (LoRA+, Hayou et al. 2024); 16 is common."""

    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    """The schedule of the learning rate after the warm-up; wsd is warmup-stable-decay."""

    warmup: Annotated[float, Range(at_least=0, below=1)] = 0.1
    """The fraction of the steps in which the learning rate rises to its peak."""

    weight_decay: Annotated[float, Range(at_least=0), Range(at_most=1e6)] = 0.01
    """Weight decay. It is never applied to biases and norms."""

    max_grad_norm: Annotated[float, Range(at_least=0), Range(at_most=1e9)] = 1.0
    """Clip gradients to this norm; 0 turns clipping off."""

    sharding: Literal["none", "full"] = "none"
    """With several processes: keep the whole model in each (none), or shard weights, gradients and optimiser state
    among them (full, FSDP2)."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(Settings, group="Training"):
    """What a language model learns from text."""

    objective: Literal["auto", "mlm", "clm", "contrastive"] = "auto"
    """What to learn: masked words (mlm, for encoders), the next word (clm, for decoders), or, besides words,
    sentence vectors from pairs of texts (contrastive): a heading or first sentence, and the text after it. auto learns
    only words."""

    temperature: Annotated[float, Range(above=0), Range(at_most=100)] | None = None
    """For contrastive: the temperature of the similarities, by default 0.05. A lower temperature gives similar
    negatives more weight."""

    word_weight: Annotated[float, Range(at_least=0), Range(at_most=1e6)] | None = None
    """For contrastive: the weight of the loss on words, by default 0.3. With 0 only the vectors are trained, and the
    model forgets how to predict words."""

    dimensions: Annotated[str, _dimensions] | None = None
    """For contrastive: lengths to which vectors can be cut after training, such as 64,128,384 (Matryoshka)."""


@dataclass(frozen=True, kw_only=True)
class TaskTrainingOptions(TrainingOptions, group="Training"):
    """How to train on a task."""

    batch_size: PositiveInt | None = None
    """Examples in an optimiser step. By default 16 (32 for `classify --method contrastive`), unless --tokens-per-step
    is given."""

    tokens_per_step: PositiveInt | None = None  # type: ignore[assignment]
    """Tokens in an optimiser step, if --batch-size is not given."""

    patience: Annotated[int, Range(at_least=0), Range(at_most=10**9)] = 3
    """Stop after this many evaluations without a better score on the validation examples; 0 turns early stopping off.
    The model with the best macro F1 on them is kept in any case."""

    seeds: PositiveInt = 1
    """Train this many times with different seeds. The report gives mean and standard deviation, and the model that is
    best on the validation examples is kept."""

    balance: Literal["none", "weights", "sampling"] = "none"
    """For imbalanced classes: weight the loss of rare classes more (weights), or draw their examples as often as those
    of other classes (sampling)."""

    train_sizes: str | None = None
    """Train on subsets of these sizes, such as 50,200,1000,all, and report a learning curve. By default train on all
    examples only."""


@dataclass(frozen=True, kw_only=True)
class ReadFirstOptions(Settings, group="Reading first"):
    """Pretraining on the task's own texts before the task is trained (Gururangan et al. 2020, "Don't Stop
    Pretraining", section 4)."""

    read_first: bool = False
    """First train the model on the texts of all training and validation examples, without their labels, as `adapt`
    does; then train the task from that model. Seeds and training sizes share this one reading."""

    unlabelled: str | None = None
    """More texts of the same kind, without labels, to read first: anything that `adapt --corpus` takes. Implies
    --read-first. Texts that hold the text of a test example are left out."""

    read_first_tokens: PositiveInt | None = None
    """Read this many tokens first. By default 500,000, but each text at most 10 times."""

    @property
    def reads_first(self) -> bool:
        """Whether texts are read before the task is trained."""
        return self.read_first or self.unlabelled is not None


@dataclass(frozen=True, kw_only=True)
class ConversationOptions(EncodingOptions, group="Conversations"):
    """How to read conversations."""

    format: Literal["auto", "chat", "alpaca", "prompt", "sharegpt", "qa"] = "auto"
    """The format of the examples: OpenAI messages (chat); instruction, input and output (alpaca); prompt and completion
    (prompt); conversations with from and value (sharegpt); or a question and an answer field (qa). auto detects it from
    the fields of the first record."""

    prompt_field: str | None = None
    """The field with the prompt. Several, separated by commas, are joined by a blank line. By default a field with a
    common name, such as question."""

    answer_field: str | None = None
    """The field with the answer. By default one with a common name, such as answer."""

    system: str | None = None
    """The system prompt of conversations that have none."""


@dataclass(frozen=True, kw_only=True)
class ChatRecordOptions(Settings, group="Records"):
    """How the records of examples or preferences are read and rendered."""

    id_field: str | None = None
    """The field that names a record. By default a record is named by its position in the file."""

    group_field: str | None = None
    """The field that names the source of a record. Records with the same source are all trained on, or all held out."""

    on_bad_record: Literal["stop", "skip"] = "stop"
    """What to do with a record that cannot be read: stop and name its line, or skip it and list it in rejects.jsonl."""

    template_date: str | None = None
    """The date (YYYY-MM-DD) for a chat template that writes today's date. By default the day on which the run
    started."""


@dataclass(frozen=True, kw_only=True)
class ForgettingOptions(Settings, group="Measuring"):
    """How forgetting is measured after training on examples or preferences."""

    control: str | None = None
    """A corpus of another field, to measure forgetting. By default medical for a model that was adapted to the corpus
    legal, and legal for all others; none turns this measurement off."""


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(Settings, group="Measuring"):
    """What is measured before and after training."""

    control: str | None = None
    """A corpus of another field, to measure forgetting. By default legal, or medical if --corpus is legal or shares
    text with it; none turns this measurement off."""

    evaluation_fraction: HeldOutShare = 0.05
    """The fraction of the documents to hold out. Near copies stay together."""

    evaluation_tokens: PositiveInt | None = None
    """The maximum number of held-out tokens to score in each corpus. By default 40,000 for an encoder, which is scored
    on the masked tokens only, and 10,000 for a decoder, which is scored on every token."""


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(Settings, group="Measuring"):
    """Which prompts are answered before and after training."""

    generate_examples: Annotated[int, Range(at_least=0), Range(at_most=10**9)] = 20
    """The number of test prompts that the model answers before and after training, for the answer scores and the
    report; 0 for none."""

    max_new_tokens: PositiveInt = 128
    """The maximum number of tokens in an answer."""

    repetition_penalty: PositiveFloat = 1.0
    """Values above 1 make tokens that are already in the prompt or the answer less likely, so answers repeat less."""


@dataclass(frozen=True, kw_only=True)
class MachineOptions(Settings, group="Machine"):
    """The device and the precision."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device; auto uses a GPU if there is one."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """The precision of the computation. auto is bfloat16 on a GPU and on a CPU with bfloat16 instructions (AVX512-BF16,
    AMX), and float32 elsewhere. Trained weights, the optimiser's moments and the loss are always float32."""

    kernels: Literal["auto", "reference", "torch", "triton"] = "auto"
    """The implementation of the fused operations. auto is triton on a GPU that supports it, and torch elsewhere;
    reference is plain PyTorch, for comparison."""

    seed: Seed = 0
    """The seed of all random choices, such as masks, order and dropout."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(Settings, group="Run folder"):
    """The run folder, checkpoints and trackers."""

    output: Path | None = None
    """The run folder. By default runs/DATA-MODEL."""

    resume: Annotated[bool, PASSING] = False
    """Continue from the newest complete checkpoint in the run folder."""

    checkpoint_every: PositiveInt = 50
    """Steps between checkpoints."""

    keep_checkpoints: PositiveInt = 2
    """How many of the newest checkpoints to keep."""

    evaluate_every: PositiveInt | None = None
    """Steps between evaluations during training. By default `adapt`, `instruct` and `prefer` evaluate about 8 times,
    `classify` and `tag` once an epoch, but at most 10 times."""

    examples: bool = True
    """Show texts from the data in the report; --no-examples keeps private text out of it."""

    track: tuple[str, ...] = ()
    """A tracker that also logs the run: tensorboard, wandb or trackio. Can be given several times."""

    dry_run: Annotated[bool, PASSING] = False
    """Check everything and print what would be done, but do not train."""


@dataclass(frozen=True, kw_only=True)
class JsonOptions(Settings, group="Screen"):
    """Output for programs."""

    json: Annotated[bool, PASSING] = False
    """Print the result as JSON; nothing else goes to standard output."""


@dataclass(frozen=True, kw_only=True)
class ScreenOptions(JsonOptions, group="Screen"):
    """What is shown during the run."""

    quiet: Annotated[bool, PASSING] = False
    """Show no progress."""
