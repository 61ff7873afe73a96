"""Reports what reading a source finds: records that cannot be used, fields that are not read, and warnings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from domain_ft.corpus.conversations.extra_fields import names_reasoning
from domain_ft.corpus.conversations.faults import Fault
from domain_ft.corpus.conversations.placeholders import Placeholders
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.readers.base import BadRecords, RawRecord, Reject
from domain_ft.corpus.unread_values import UnreadValues
from domain_ft.errors import CorpusError
from domain_ft.wording import counted

_PLACEHOLDERS = 5  # placeholders that the notes name


class ParsedRecord(Protocol):
    """What parsing a record finds beside its conversation or its preferences."""

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Everything wrong with the record."""

    @property
    def unread(self) -> tuple[str, ...]:
        """The fields that are not read; those of messages as `messages[].tag`."""

    @property
    def left_out(self) -> Fault | None:
        """Why the record is left out although nothing is wrong with it."""


class ReadingLog:
    """Collects the reports on the records of one source.

    Args:
        bad: receives each record that cannot be used.
        left_out: counts the fields that are not read and the records that are left out.
        marked: receives each record that is left out although nothing is wrong with it.
        check_options: the options with which `data check` reads such a source, for messages.
    """

    def __init__(
        self,
        bad: BadRecords,
        left_out: LeftOut,
        marked: Callable[[Reject], None] | None = None,
        *,
        check_options: str = "",
    ) -> None:
        self.bad, self.left_out, self.marked, self.check_options = bad, left_out, marked, check_options
        self.placeholders = Placeholders()
        self.unread = UnreadValues(texts=True)
        self.warnings: dict[str, list[Fault]] = defaultdict(list)

    def add(
        self,
        record: RawRecord,
        name: str,
        parsed: ParsedRecord,
        *,
        texts: Sequence[str] | None,
        named: Collection[str],
        id_field: str | None,
    ) -> None:
        """Report on one record.

        Args:
            name: the file's name.
            texts: the contents of the turns; None if the record cannot be used or is left out.
            named: the fields of the id and the group.
            id_field: the field of the id, which counts as read.
        """
        blank = [field for field, value in record.fields.items() if value is None or value == ""]
        self.left_out.see_fields(parsed.unread, [*blank, *([id_field] if id_field else [])])
        if parsed.left_out is not None:
            self.left_out.records += 1
            if self.marked is not None:
                self.marked(Reject(name, record.line, parsed.left_out.field, parsed.left_out.message))
            return
        if texts is not None:
            self.unread.add(record.fields, [field for field in parsed.unread if field not in named], texts)
            self.placeholders.add(record.line, texts)
        errors = [fault for fault in parsed.faults if fault.error]
        for fault in parsed.faults:
            if not fault.error:
                self.warnings[fault.kind].append(fault)
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            fix = f"`domain-ft data check {name}{self.check_options}` lists everything that is wrong"
            self.bad.add(errors[0].message + more, file=name, line=record.line, field=errors[0].field, fix=fix)

    def notes(self, spec: str, *, texts: bool) -> list[str]:
        """Sentences about all records.

        Args:
            spec: the source.
            texts: whether to mention fields with texts that are not read.
        """
        notes = []
        for kind, faults in self.warnings.items():
            notes.append(f"{counted(len(faults), 'time')} in {spec}: {faults[0].message} ({kind}).")
        notes += [f"In {spec}, {one.message}." for one in self.placeholders.unfilled()[:_PLACEHOLDERS]]
        notes += [f"In {spec}: {note}" for note in self.unread.verdict_notes()]
        if texts:
            notes += [f"In {spec}, {note}" for note in self.unread.text_notes(names_reasoning)]
        return notes


def none_usable(what: str, spec: str, left_out: Sequence[Reject]) -> CorpusError:
    """The error for a source without usable records.

    Args:
        what: what the records are.
        spec: the source.
        left_out: the records that were left out.
    """
    why = ""
    if left_out:
        why = f": {counted(len(left_out), 'record is', 'records are')} left out. The first: {left_out[0].reason}"
    fix = "`domain-ft data check` lists everything that is wrong" if left_out else f"give a file with {what}"
    return CorpusError(f"there are no usable {what}{why}", where=spec, fix=fix)
