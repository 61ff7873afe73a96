"""`domain-ft data check`: find what is wrong with a file before training on it.

checked = check(DataCheckSettings(data="chat.jsonl"))
checked.result.errors, checked.result.statistics["answer_characters"]["p95"]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from domain_ft.checking import Settings, options
from domain_ft.corpus.checks.checking import Checker, CheckResult
from domain_ft.corpus.checks.findings import Finding
from domain_ft.corpus.checks.items import Item, Rejections
from domain_ft.corpus.checks.lengths import TokenLengths
from domain_ft.corpus.checks.opening import CheckedFile, Fields
from domain_ft.corpus.checks.private import PrivateData
from domain_ft.corpus.checks.repairs import Repaired, refuse_output, repair
from domain_ft.corpus.conversations.formats import FORMATS, FieldChoice
from domain_ft.corpus.left_out import LeftOut, sentences
from domain_ft.corpus.preferences.fields import FORMATS as PREFERENCE_FORMATS
from domain_ft.corpus.preferences.fields import PreferenceChoice
from domain_ft.corpus.readers.base import field_names
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tasks.labels import LabelRules
from domain_ft.errors import SettingsError
from domain_ft.progress import Progress
from domain_ft.report.plain import plain
from domain_ft.terminal_text import printable
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.data.settings import DataCheckSettings
from domain_ft.verbs.groups import TokenOptions
from domain_ft.verbs.instruct.settings import InstructSettings
from domain_ft.verbs.prefer.settings import PreferSettings
from domain_ft.verbs.tag.settings import TagSettings
from domain_ft.wording import counted

SHOWN = 3
"""The most findings of each kind on the screen; --json lists all of them."""

_SETTINGS: dict[str, type[Settings]] = {
    "conversations": InstructSettings,
    "preferences": PreferSettings,
    "examples": ClassifySettings,
    "tags": TagSettings,
    "text": TokenOptions,
}
"""For each kind of file, the settings class from which --max-length takes its default."""

_FORMATS: dict[str, str] = {
    str(name): words for known in (FORMATS, PREFERENCE_FORMATS) for name, words in known.items()
}
_EVERY = 500  # records between updates of progress
_MEASURES = {
    "messages": "messages",
    "prompt_tokens": "tokens of the prompt",
    "answer_tokens": "tokens of the answers",
    "text_tokens": "tokens of the text",
    "prompt_characters": "characters of the prompt",
    "answer_characters": "characters of the answers",
    "text_characters": "characters of the text",
}
_COLUMNS = ("mean", "min", "p5", "p50", "p95", "p99", "max")


@dataclass(frozen=True)
class Checked:
    """A checked file.

    Attributes:
        file: the file, and how it was read.
        result: the findings.
        repaired: the copy that --fix wrote; None without --fix.
    """

    file: CheckedFile
    result: CheckResult
    repaired: Repaired | None = None

    def as_dict(self) -> dict[str, Any]:
        """The result for `--json`."""
        about = {"file": self.file.name, "kind": self.file.kind, "format": self.file.format}
        fixed = {}
        if self.repaired:
            unread = {name: self.result.statistics[name] for name in ("unread_fields", "unread_files")}
            fixed["fixed"] = {**self.repaired.as_dict(), **unread}
        return {
            "errors": [finding.as_dict() for finding in self.result.errors],
            "warnings": [finding.as_dict() for finding in self.result.warnings],
            "statistics": {**about, **self.result.statistics, **fixed},
        }


def check(settings: DataCheckSettings, progress: Progress | None = None) -> Checked:
    """Check every record of a file, and with --fix write a cleaned copy.

    Raises:
        UserError: the file cannot be found, its kind is unclear, options contradict each other, or --fix cannot write
            its copy.
    """
    if settings.max_length and not settings.model:
        raise SettingsError("--max-length counts tokens, which needs --model", fix="give --model M")
    if settings.names and not settings.private:
        raise SettingsError("--names with --no-private: names are private data", fix="leave one of them out")
    rules = LabelRules(settings.label_separator, field_names(settings.label_names), settings.label_kind)
    fields = Fields(
        FieldChoice.of(settings),
        settings.text_field,
        settings.pair_field,
        settings.label_field,
        settings.encoding,
        rules,
        TagFields(
            settings.text_field,
            settings.tokens_field,
            settings.tags_field,
            settings.spans_field,
            offsets=settings.span_offsets,
        ),
        replace(PreferenceChoice.of(settings), format="auto"),
    )
    file = CheckedFile.open(settings.data, settings.kind, fields)
    if settings.fix is not None:
        refuse_output(file, settings.fix)
    private = PrivateData(settings.region, settings.names) if settings.private else None
    rejections = Rejections(encoding=settings.encoding)
    checker = Checker(
        languages=settings.language,
        private=private,
        measure=_measure(settings, file, progress) if settings.model else None,
        test=CheckedFile.open(settings.test, file.kind, fields).copies() if settings.test else None,
    )
    left = LeftOut()
    items = file.items(rejections.bad, left)
    result = checker.check(_counted(items, f"checking {file.name}", progress), rejections, left)
    if settings.fix is None:
        return Checked(file, result)
    return Checked(file, result, repair(file, result, settings.fix, private, checker.languages.main))


def _measure(settings: DataCheckSettings, file: CheckedFile, progress: Progress | None) -> TokenLengths:
    from domain_ft.verbs.data.show import find_tokenizer  # imports transformers when it is called

    tokenizer = find_tokenizer(str(settings.model), progress)
    default = next(option.default for option in options(_SETTINGS[file.kind]) if option.name == "max_length")
    longest = settings.max_length or min(default, tokenizer.model_max_length)
    return TokenLengths(tokenizer, longest, cuts=file.kind in ("conversations", "preferences", "examples"))


def _counted(items: Iterable[Item], label: str, progress: Progress | None) -> Iterator[Item]:
    for number, item in enumerate(items, 1):
        if progress and number % _EVERY == 0:
            progress(label, number, None)
        yield item


def run(settings: DataCheckSettings) -> dict[str, Any]:
    """The verb: check, and print the findings, errors first."""
    with ProgressDisplay() as display:
        checked = check(settings, display.job)
    if not settings.json:
        print_checked(checked, Console(highlight=False))
    return checked.as_dict()


def print_checked(checked: Checked, console: Console) -> None:
    """Print what the file is, the distribution of lengths, and the first findings of each kind."""
    result, numbers = checked.result, checked.result.statistics
    console.print(plain(checked.file.name, style="bold cyan"), plain(_about(checked)), soft_wrap=False)
    console.print()
    table = _distributions(numbers)
    if table is not None:
        console.print(table)
    if numbers["languages"]:
        console.print(plain(f"languages, by number of texts: {_counts(numbers['languages'])}"), soft_wrap=False)
        console.print()
    for sentence in sentences(numbers):
        console.print(plain(sentence), soft_wrap=False)
        console.print()
    for findings, word, style in ((result.errors, "error", "red"), (result.warnings, "warning", "yellow")):
        if findings:
            _print_findings(findings, word, style, console)
    if not result.errors:
        console.print(plain("No errors.", style="green"))
    if checked.repaired is not None:
        _print_repaired(checked.repaired, console)
    elif result.findings:
        console.print(plain("--fix OUT writes a cleaned copy; --json lists every finding.", style="dim"))


def _about(checked: Checked) -> str:
    numbers, file = checked.result.statistics, checked.file
    kind = f"{file.kind} ({_FORMATS[file.format]})" if file.format else file.kind
    unread = f"; {numbers['unreadable']:,} more cannot be read" if numbers["unreadable"] else ""
    return f"{counted(numbers['records'], 'record')} of {kind}{unread}"


def _distributions(numbers: Mapping[str, Any]) -> Table | None:
    """A row for each measure; characters are left out if tokens were counted."""
    measured = [name for name in _MEASURES if numbers.get(name, {}).get("count")]
    if any(name.endswith("_tokens") for name in measured):
        measured = [name for name in measured if not name.endswith("_characters")]
    if not measured:
        return None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("")
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for name in measured:
        table.add_row(_MEASURES[name], *(_short(numbers[name][column]) for column in _COLUMNS))
    return table


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.1f}"


def _print_findings(findings: Sequence[Finding], word: str, style: str, console: Console) -> None:
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_kind[finding.kind].append(finding)
    kinds = "1 kind" if len(by_kind) == 1 else f"{len(by_kind)} kinds"
    count = f"{len(findings):,} {word}" + ("" if len(findings) == 1 else "s")
    console.print(plain(f"{count} of {kinds}", style=f"bold {style}"))
    for kind, of_kind in sorted(by_kind.items(), key=lambda pair: -len(pair[1])):
        console.print(Text.assemble("  ", (kind, style), f"  {len(of_kind):,}"))
        console.print(Padding(_first_of(of_kind), (0, 0, 0, 4)))
    console.print()


def _first_of(findings: Sequence[Finding]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings[:SHOWN]:
        place = "file" if finding.line is None else f"line {finding.line}"
        field = (f"{finding.field}: ", "cyan") if finding.field else ""
        table.add_row(place, Text.assemble(field, printable(finding.message)))
    if len(findings) <= SHOWN:
        return table
    lines = [str(finding.line) for finding in findings[SHOWN : SHOWN + 10] if finding.line is not None]
    places = f", on line{'' if len(lines) == 1 else 's'} {', '.join(lines)}" if lines else ""
    more = f"and {len(findings) - SHOWN:,} more{places}"
    return Group(table, plain(more + (" …" if len(findings) > SHOWN + 10 else ""), style="dim"))


def _print_repaired(repaired: Repaired, console: Console) -> None:
    console.print(
        plain(f"{counted(repaired.records, 'record is', 'records are')} written to {repaired.output}", style="bold"),
        soft_wrap=True,
    )
    for sentence in sentences({"rejected": repaired.rejected, "rejects": repaired.changes_file.name}):
        console.print(plain(sentence), soft_wrap=False)
    changes = _counts(repaired.changes) or "none"
    console.print(plain(f"changes: {changes}; each is listed in {repaired.changes_file.name}"), soft_wrap=False)


def _counts(counts: Mapping[str, int]) -> str:
    """Counts on one line, the most frequent first, such as `en 190, ja 3`."""
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{name} {count:,}" for name, count in ordered)
