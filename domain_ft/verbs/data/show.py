"""`domain-ft data show`: the contents of a corpus.

show(DataShowSettings(corpus="legal")).statistics["near_duplicates"]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from domain_ft.corpus import assets, left_out
from domain_ft.corpus.left_out import fields_read
from domain_ft.errors import AssetError
from domain_ft.models.catalogue import EMBEDDED
from domain_ft.progress import Progress
from domain_ft.report.plain import plain
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.data.inventory import SourceEntry, TaskEntry, corpus_entry
from domain_ft.verbs.data.list import source_line, task_line
from domain_ft.verbs.data.printing import facts_table, new_console, spell_counts
from domain_ft.verbs.data.settings import DataShowSettings
from domain_ft.verbs.groups import TokenOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from domain_ft.corpus.prepared import PreparedCorpus
    from domain_ft.corpus.vocabulary_fit import VocabularyFit

SAMPLES = 3
SAMPLE_CHARACTERS = 240
BAR_WIDTH = 32  # characters of the longest bar of a histogram


@dataclass(frozen=True)
class TokenCounts:
    """The size of a corpus in tokens.

    Attributes:
        model: the model of the tokenizer.
        max_length: the maximum number of tokens in a sequence.
        train, evaluation: tokens of each split, including special tokens.
        train_sequences, evaluation_sequences: sequences of each split.
    """

    model: str
    max_length: int
    train: int
    evaluation: int
    train_sequences: int
    evaluation_sequences: int


@dataclass(frozen=True)
class CorpusView:
    """The contents of a corpus.

    Attributes:
        name, description, licence, citation, language, sources, tasks: from its recipe.
        statistics: of reading, cleaning and splitting; the fields of `CorpusStatistics`.
        tokens: the size in tokens; None if the tokenizer is not available.
        notes: what the user should know, in sentences.
        samples: the beginnings of a few documents, as (id, text).
        rejects: the file that lists the records that were left out; None if there are none.
        tokenizer: how well the tokenizer's vocabulary fits the text; None if it is not available.
        rejected, unread_fields, unread_files: what was not read, as from `LeftOut.to_result`.
    """

    name: str
    description: str
    licence: str
    citation: str
    language: str
    sources: tuple[SourceEntry, ...]
    tasks: tuple[TaskEntry, ...]
    statistics: Mapping[str, Any]
    tokens: TokenCounts | None
    notes: tuple[str, ...]
    samples: tuple[tuple[str, str], ...]
    rejects: str | None
    tokenizer: Mapping[str, Any] | None
    rejected: int
    unread_fields: Mapping[str, int]
    unread_files: Mapping[str, Any]


def show(settings: DataShowSettings, progress: Progress | None = None) -> CorpusView:
    """Read, clean and split a corpus, or take it from the cache, and describe its contents.

    Raises:
        CorpusError: the corpus cannot be found or read.
        AssetError: its text cannot be downloaded.
        ModelError: the model of the tokenizer cannot be found.
    """
    from domain_ft.corpus.corpus import open_corpus  # slow to import; `data check` needs only `find_tokenizer`
    from domain_ft.corpus.prepared import prepare

    corpus = open_corpus(
        settings.corpus,
        text_field=settings.text_field,
        on_bad_record=settings.on_bad_record,
        encoding=settings.encoding,
    )
    prepared = prepare(corpus, progress=progress)
    notes = [*prepared.statistics.notes, *fields_read(prepared.statistics.text_fields)]
    try:
        tokens, fit = _count_tokens(prepared, settings.model, progress)
        notes += fit.warnings(settings.model)
    except AssetError as error:
        tokens, fit = None, None
        notes.append(f"Tokens are not counted: the tokenizer of {settings.model} is not available. {error.what}")
    entry = corpus_entry(prepared.recipe)
    return CorpusView(
        name=prepared.name,
        description=entry.description,
        licence=entry.licence,
        citation=prepared.recipe.citation,
        language=entry.language,
        sources=entry.sources,
        tasks=entry.tasks,
        statistics=prepared.statistics.as_dict(),
        tokens=tokens,
        notes=tuple(notes),
        samples=tuple((d.id, d.text[:SAMPLE_CHARACTERS]) for d in prepared.samples(SAMPLES)),
        rejects=str(prepared.rejects_path) if prepared.rejects_path else None,
        tokenizer=fit.to_result() if fit else None,
        **prepared.statistics.left_out,
    )


def _count_tokens(prepared: PreparedCorpus, model: str, progress: Progress | None) -> tuple[TokenCounts, VocabularyFit]:
    """Tokenise both splits as `adapt` does by default. `adapt` then finds the tokens in the cache."""
    from domain_ft.corpus.tokens import tokenize
    from domain_ft.corpus.vocabulary_fit import VocabularyFit

    tokenizer = find_tokenizer(model, progress)
    max_length = min(TokenOptions().max_length, tokenizer.model_max_length)
    train = tokenize(prepared.split("train"), tokenizer, max_length=max_length, progress=progress)
    evaluation = tokenize(prepared.split("evaluation"), tokenizer, max_length=max_length, progress=progress)
    counts = TokenCounts(model, max_length, train.tokens, evaluation.tokens, len(train), len(evaluation))
    return counts, VocabularyFit.of(train, tokenizer.unk_token_id)


def find_tokenizer(model: str, progress: Progress | None) -> PreTrainedTokenizerFast:
    """The tokenizer of a model. An embedded model is not converted if its asset has the tokenizer as a file."""
    from domain_ft.embedded.loading import find
    from domain_ft.models.model_files import load_tokenizer, read_tokenizer
    from domain_ft.models.sources import quiet

    with quiet():
        embedded = EMBEDDED.get(model)
        if embedded and embedded.tokenizer:
            return read_tokenizer(assets.ensure(embedded.asset, progress) / embedded.tokenizer, model)
        return load_tokenizer(find(model, progress=progress), model)


def print_view(view: CorpusView, console: Console) -> None:
    """Print a corpus's origin, counts, document lengths, and the beginnings of a few documents."""
    console.print(plain(view.name, style="bold cyan"))
    console.print(plain(view.description))
    console.print(Padding(_origin(view), (1, 0, 1, 2)))
    if view.tasks:
        console.print(plain("Tasks", style="bold"))
        for task in view.tasks:
            console.print(Padding(Group(plain(task_line(task)), _task_card(task)), (0, 0, 1, 2)))
    console.print(plain("Documents", style="bold"))
    console.print(Padding(_reading(view), (0, 0, 0, 2)))
    console.print(Padding(_splits(view), (0, 0, 0, 2)))  # the table begins and ends with an empty line
    console.print(plain("Characters in a document", style="bold"))
    console.print(Padding(_histogram(view.statistics["histogram"]), (0, 0, 1, 2)))
    console.print(plain("Samples", style="bold"))
    for name, text in view.samples:
        ellipsis = "…" if len(text) == SAMPLE_CHARACTERS else ""
        sample = Group(plain(name, style="dim"), plain(" ".join(text.split()) + ellipsis))
        console.print(Padding(sample, (0, 0, 1, 2)))
    for note in (*view.notes, *left_out.sentences({**vars(view), "rejected": 0})):
        console.print(plain(f"Note: {note}", style="yellow"))


def _origin(view: CorpusView) -> RenderableType:
    return facts_table(
        {
            "licence": view.licence,
            "cite": view.citation,
            "language": "" if view.language == "und" else view.language,
            "from": "\n".join(map(source_line, view.sources)),
        }
    )


def _task_card(task: TaskEntry) -> RenderableType:
    return facts_table(
        {
            "asks": task.description,
            "licence": task.licence,
            "cite": task.citation,
            "from": source_line(task.source),
            "split": task.split,
            "weaknesses": task.weaknesses,
            "scores": task.scores,
        }
    )


def _reading(view: CorpusView) -> RenderableType:
    """How many documents were read, left out and kept."""
    numbers = view.statistics
    lost = {
        "exact copies": numbers["exact_duplicates"],
        "near copies": numbers["near_duplicates"],
        "empty": numbers["empty"],
        "unreadable": numbers["rejects"],
    }
    return facts_table(
        {
            "read": f"{numbers['read']:,}",
            "left out": spell_counts(lost) or "none",
            "listed in": view.rejects or "",
            "kept": f"{numbers['kept']:,} in {numbers['groups']:,} groups of similar documents, the largest of "
            f"{numbers['largest_group']:,}; splits do not divide groups",
            "languages": spell_counts(numbers["languages"]),
        }
    )


def _splits(view: CorpusView) -> Table:
    """Documents, characters and tokens of each split, and of both."""
    numbers, tokens = view.statistics, view.tokens
    columns = {
        "documents": [numbers["train_documents"], numbers["evaluation_documents"]],
        "characters": [numbers["train_characters"], numbers["evaluation_characters"]],
    }
    if tokens:
        columns[f"tokens ({tokens.model})"] = [tokens.train, tokens.evaluation]
        columns[f"sequences of {tokens.max_length}"] = [tokens.train_sequences, tokens.evaluation_sequences]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column()
    for name in columns:
        table.add_column(name, justify="right")
    for place, split in enumerate(("train", "evaluation")):
        table.add_row(split, *(f"{counts[place]:,}" for counts in columns.values()))
    table.add_row("both", *(f"{sum(counts):,}" for counts in columns.values()), style="bold")
    return table


def _histogram(bins: Sequence[tuple[int, int, int]]) -> Table:
    """A bar for each bin (from, below, documents)."""
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right")
    table.add_column()
    table.add_column(justify="right")
    most = max((count for _, _, count in bins), default=1)
    for low, high, count in bins:
        table.add_row(f"{low:,} to {high - 1:,}", plain(_bar(count / most), style="cyan"), f"{count:,}")
    return table


def _bar(share: float) -> str:
    """A bar of `share` of the full width, in eighths of a character; at least one eighth if `share` is above 0."""
    eighths = max(round(share * BAR_WIDTH * 8), 1 if share > 0 else 0)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def run(settings: DataShowSettings) -> dict[str, Any]:
    """The verb: prepare the corpus and print its contents."""
    with ProgressDisplay(quiet=settings.quiet) as display:
        view = show(settings, display.job)
    if not settings.json:
        print_view(view, new_console())
    return dataclasses.asdict(view)
