"""Records, fields and files of the input that a run did not read.

Readers count them, and the verb writes the counts to result.json (`LeftOut.to_result`). The terminal and the report
show the same text, made by `sentences`, so that nothing is left out silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from domain_ft.quoting import quoted, shown
from domain_ft.wording import counted

LISTED = 20  # the most names that a sentence lists; result.json lists up to LISTED_IN_RESULT files
LISTED_IN_RESULT = 1000

VERDICT = "answer"
"""Prodigy's field for the annotator's decision: accept, reject or ignore."""


def rejected_by_annotator(record: Mapping[str, Any]) -> str | None:
    """The reason to leave out a record that its annotator rejected or ignored; None for other records.

    >>> rejected_by_annotator({"text": "x", "answer": "Reject"})
    "the annotator's answer is Reject"
    """
    value = record.get(VERDICT)
    if isinstance(value, str) and value.strip().casefold() in ("reject", "ignore"):
        return f"the annotator's answer is {value.strip()}"
    return None


@dataclass(frozen=True)
class UnreadFile:
    """A file that was not read, and why; or a folder, an attachment of an e-mail, or a split of a data set."""

    file: str
    reason: str


@dataclass
class LeftOut:
    """Counts of what was not read.

    Attributes:
        records: the number of records that were left out. The verb decides where they are listed, if at all.
        fields: by field that was not read, the number of records with it.
        files: the files that were not read, and the other things that an `UnreadFile` can be.
    """

    records: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    files: list[UnreadFile] = field(default_factory=list)

    def see_fields(self, present: Iterable[str], read: Collection[str]) -> None:
        """Count the fields of one record that are `present` but not `read`."""
        self.fields.update(name for name in present if name not in read)

    def and_also(self, other: LeftOut) -> LeftOut:
        """The counts of both."""
        return LeftOut(self.records + other.records, self.fields + other.fields, [*self.files, *other.files])

    def to_result(self) -> dict[str, Any]:
        """The keys of result.json: `rejected`, `unread_fields` and `unread_files`."""
        return {
            "rejected": self.records,
            "unread_fields": dict(self.fields.most_common()),
            "unread_files": {
                "count": len(self.files),
                "files": [{"file": one.file, "reason": one.reason} for one in self.files[:LISTED_IN_RESULT]],
            },
        }


def sentences(result: Mapping[str, Any]) -> list[str]:
    """Sentences for the user, from the keys of `LeftOut.to_result`; none if everything was read.

    The caller sets `result["rejects"]` to "" if no list of the left-out records was written.
    """
    parts = []
    rejected = result.get("rejected", 0)
    if rejected:
        records = "1 record was" if rejected == 1 else f"{rejected:,} records were"
        listed = result.get("rejects")  # the name of the list, by default rejects.jsonl
        name = listed if isinstance(listed, str) else "rejects.jsonl"
        parts.append(f"{records} left out; {name} says which and why" if name else f"{records} left out")
    fields = result.get("unread_fields") or {}
    if fields:
        counts = ", ".join(f"{quoted(name)} ({count:,})" for name, count in list(fields.items())[:LISTED])
        more = f" and {len(fields) - LISTED:,} more" if len(fields) > LISTED else ""
        parts.append(f"fields that were not read, with the number of records that have them: {counts}{more}")
    files = (result.get("unread_files") or {}).get("files") or []
    if files:
        count = result["unread_files"]["count"]
        names = ", ".join(f"{one['file']} ({one['reason']})" for one in files[:LISTED])
        more = f" and {count - LISTED:,} more" if count > LISTED else ""
        items = "1 item was" if count == 1 else f"{count:,} items were"  # a folder, an attachment or a split counts too
        parts.append(f"{items} not read: {names}{more}")
    return parts


def fields_read(text_fields: Iterable[Mapping[str, Any]]) -> list[str]:
    """Sentences about the fields of the texts and their lengths, from the `text_fields` of a result."""
    return [
        f"the text is read from the field '{shown(one['field'])}'{', found automatically' if one['found'] else ''}: "
        f"{counted(one['records'], 'record')}, a median of {counted(one['median_characters'], 'character')}"
        for one in text_fields
    ]
