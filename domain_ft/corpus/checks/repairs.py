"""A cleaned copy of a file: what can safely be mended is, what cannot be used is left out, and each change is listed.

Mended: text that was read in a wrong encoding, personal data and secrets (masked; `tag_repairs` says how beside tags),
messages that say nothing. Left out: records and tagged sentences that cannot be used, copies and near copies of earlier
ones that ask the same and have the same labels, rows of the test file. Answers, labels and entities that contradict
each other stay, and so do answers that seem cut off or are in another language: only a person can tell which is right.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from domain_ft.corpus.checks.checking import CheckResult
from domain_ft.corpus.checks.conversations import rewrite
from domain_ft.corpus.checks.encoding import mend_encoding, without_surrogates
from domain_ft.corpus.checks.items import Passage, Rejections, Visit
from domain_ft.corpus.checks.opening import CheckedFile
from domain_ft.corpus.checks.private import Hit, PrivateData, redact
from domain_ft.corpus.checks.tag_repairs import mend_columns, mend_record
from domain_ft.corpus.conversations.formats import Fault, parse
from domain_ft.corpus.readers.base import BOM, BadRecords, RawRecord, Reject, decode, open_bytes, read_lines
from domain_ft.corpus.readers.files import ending
from domain_ft.corpus.tagging.conll import begins_document, conll_blocks, layout_of
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.reading import file_kind, read_tagged, resolve_fields
from domain_ft.errors import CorpusError
from domain_ft.locks import refuse_below_file, writing_beside

_COPIES = frozenset({"duplicate", "near-duplicate"})
# Errors that `_mended` may mend, so that the record is judged again.
_MENDABLE = frozenset({"empty-prompt", "empty-answer", "missing-content"})
_TWICE = "roles-do-not-alternate"  # what is left without a blank message may be an answer to nothing


@dataclass
class Repaired:
    """What became of a file.

    Attributes:
        output, changes_file: where the copy and the list of changes are.
        records: written.
        rejected: records that were left out, each listed in the changes.
        changes: how many there are of each kind.
    """

    output: Path
    changes_file: Path
    records: int = 0
    rejected: int = 0
    changes: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "output": str(self.output),
            "changes_file": str(self.changes_file),
            "records": self.records,
            "rejected": self.rejected,
            "rejects": str(self.changes_file) if self.rejected else None,
            "changes": dict(self.changes.most_common()),
        }


def repair(
    file: CheckedFile, found: CheckResult, output: Path, private: PrivateData | None, language: str | None
) -> Repaired:
    """Write a cleaned copy of a file that was checked.

    Args:
        file: it is read again.
        found: what the check found.
        output: a new file: JSON lines, or of a plain text or CoNLL columns the same; the changes go to
            OUTPUT.changes.jsonl.
        private: what finds personal data and secrets; None to leave them in.
        language: that most of the file is in.

    Raises:
        CorpusError: there is such a file already, or its name does not end as that of such a file.
    """
    with writing_beside(output):
        return _repair(file, found, output, private, language)


def refuse_output(file: CheckedFile, output: Path) -> None:
    """Make sure, before the file is read, that its cleaned copy can be written to `output`.

    Raises:
        UserError: there is such a file or folder already, it is below a file, or its name does not end as it must.
    """
    refuse_below_file(output, "--fix")
    for path in (output, _changes_file(output)):
        if path.exists():
            raise CorpusError(f"--fix {output}: {path} exists already", fix="give a new name; nothing was changed")
    if file.kind == "tags" and file_kind(file.path) == "brat":
        raise CorpusError(
            "--fix: BRAT's files are checked, and not mended", where=file.name, fix="mend them by what is listed"
        )
    wanted = ending(file.path) if file.is_plain else ".jsonl"
    if output.suffix.lower() != wanted:
        must = f"the name has to end in {wanted}" if wanted else "the name may have no ending"
        what = "as that of the file does" if file.is_plain else "since the copy is JSON lines"
        raise CorpusError(f"--fix {output}: {must}, {what}", fix=f"give {output.stem}{wanted}")


def _changes_file(output: Path) -> Path:
    return output.with_name(f"{output.name}.changes.jsonl")


def _repair(
    file: CheckedFile, found: CheckResult, output: Path, private: PrivateData | None, language: str | None
) -> Repaired:
    refuse_output(file, output)
    changes_file = _changes_file(output)
    repaired = Repaired(output, changes_file)
    with _written(output) as copy, _written(changes_file) as changes:
        repairing = _Repairing(file, found, private, language, copy, changes, repaired)
        if file.path.suffix != ".parquet" and _has_mark(file.path):
            repairing.note(1, None, "byte-order-mark", "left out")
            repairing.keep()
        repairing.run()
    return repaired


@contextlib.contextmanager
def _written(path: Path) -> Iterator[TextIO]:
    """A file that stands at `path` once the block has ended without an error."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _has_mark(path: Path) -> bool:
    with open_bytes(path) as file:
        return file.read(len(BOM)) == BOM


@dataclass
class _Repairing:
    """One call of `repair`."""

    file: CheckedFile
    found: CheckResult
    private: PrivateData | None
    language: str | None
    copy: TextIO
    changes: TextIO
    repaired: Repaired
    pending: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left_out: dict[int | None, tuple[str, str]] = {}  # by line, why
        for finding in self.found.findings:
            final = finding.error and not (self.file.kind == "conversations" and finding.kind in _MENDABLE)
            copied = finding.kind in _COPIES and finding.line in self.found.spare
            if finding.line is not None and (final or copied):
                self.left_out.setdefault(finding.line, (finding.kind, finding.message))
        if self.file.kind == "tags":
            self._judge_tags_again()

    def _judge_tags_again(self) -> None:
        """Leave out what the tags of all the others do not allow: without copies they may be of another scheme."""
        file, known = self.file, -1
        while known < len(self.left_out):
            known, rejections = len(self.left_out), Rejections(encoding=file.fields.encoding)
            read_tagged(file.path, file.name, file.tag_fields, None, rejections.bad, self.left_out)
            for finding in rejections.take():
                if finding.line is not None:
                    self.left_out.setdefault(finding.line, (finding.kind, finding.message))

    def note(self, line: int | None, field: str | None, kind: str, change: str) -> None:
        """Note a change to a record, which `keep` lists and `leave_out` forgets."""
        self.pending.append({"line": line, "field": field, "kind": kind, "change": change})

    def keep(self) -> None:
        """List what was noted of a record that is kept."""
        for change in self.pending:
            self.repaired.changes[change["kind"]] += 1
            self.changes.write(json.dumps(change, ensure_ascii=False) + "\n")
        self.pending.clear()

    def leave_out(self, line: int | None, kind: str, why: str) -> None:
        """List a record that is left out."""
        self.pending.clear()
        self.repaired.rejected += 1
        self.note(line, None, kind, f"left out: {why}")
        self.keep()

    def rejected(self, reject: Reject) -> None:
        """List a record that cannot be read."""
        kind, _ = self.left_out.get(reject.line, ("unreadable", ""))
        self.leave_out(reject.line, kind, reject.reason)

    def changed(self, line: int | None, field: str | None, mended: bool, hits: Sequence[Hit]) -> None:
        """Note whether a text was mended, and what was masked in it."""
        if mended:
            self.note(line, field, "mojibake", "mended")
        for (kind, mark), count in Counter((hit.kind, hit.mark) for hit in hits).items():
            self.note(line, field, kind, f"masked: {mark}" if count == 1 else f"masked: {count} × {mark}")

    def find(self, text: str) -> Sequence[Hit]:
        """What is private in a text."""
        return self.private.find(text, self.language) if self.private else []

    def run(self) -> None:
        """Write all that is left."""
        bad = BadRecords("skip", self.rejected, self.file.fields.encoding)
        if self.file.is_plain and self.file.kind == "tags":
            self._sentences()
            return
        if self.file.is_plain:
            self._lines(bad)
            return
        for record in self.file.records(bad):
            if record.line in self.left_out:
                self.leave_out(record.line, *self.left_out[record.line])
                continue
            fields = self._mended(record)
            if fields is not None:
                self.keep()
                self.repaired.records += 1
                line = json.dumps(fields, ensure_ascii=False, default=str)
                self.copy.write(without_surrogates(line) + "\n")  # they may stand in a field that is no text

    @functools.cached_property
    def tag_fields(self) -> TagFields:
        """Which fields hold what in all tagged records of the file."""
        return resolve_fields(self.file.path, self.file.name, self.file.tag_fields, self.file.fields.bad)

    def _lines(self, bad: BadRecords) -> None:
        for number, offset, raw in read_lines(self.file.path, self.file.name, bad):
            line = decode(raw, self.file.name, bad, offset=offset, line=number)
            if line is not None:
                self.repaired.records += 1
                end = "\n" if line.endswith("\n") else ""
                self.copy.write(self._text(number, Passage("", line.rstrip("\r\n"))) + end)
                self.keep()

    def _sentences(self) -> None:
        # A fault in a line is known from the check, and listed for its sentence: what is new is said of the file.
        bad = BadRecords(
            "skip",
            lambda reject: self.rejected(reject) if reject.line is None else None,
            self.file.fields.encoding,
        )
        blocks = list(conll_blocks(self.file.path, self.file.name, bad))
        layout = layout_of(blocks, self.file.name, self.file.tag_fields.tokens, self.file.tag_fields.tags)
        for sentence, behind in blocks:
            why = next((self.left_out[number] for number, _ in sentence if number in self.left_out), None)
            if why is not None:
                self.leave_out(sentence[0][0], *why)
                behind = list(itertools.dropwhile(lambda line: not begins_document(line), behind))  # the blank lines go
            elif sentence:
                lines = [(number, line) for number, line in sentence if line is not None]
                self.copy.writelines(mend_columns(lines, layout, self.find, self.changed))
                self.keep()
                self.repaired.records += 1
            self.copy.writelines(behind)

    def _mended(self, record: RawRecord) -> dict[str, Any] | None:
        """The fields of a record with its texts mended; None where it is left out."""
        if self.file.kind == "tags":
            return mend_record(record, self.tag_fields, self.find, self.changed)

        def visit(passage: Passage) -> str:
            return self._text(record.line, passage)

        if self.file.kind != "conversations" or self.file.format is None:
            texts = self.file.text_fields
            return {
                name: _each_text(name, value, visit) if name in texts else value
                for name, value in record.fields.items()
            }
        fields = rewrite(record.fields, self.file.format, self.file.fields.choice, visit)
        faults = self._faults(record, fields)
        if any(fault.error for fault in faults):
            fields = self._without_blank_messages(record.line, fields)
            faults = [fault for fault in self._faults(record, fields) if fault.error or fault.kind == _TWICE]
            if faults:
                self.leave_out(record.line, faults[0].kind, faults[0].message)
                return None
        return fields

    def _faults(self, record: RawRecord, fields: Mapping[str, Any]) -> Sequence[Fault]:
        """What is wrong with a record of these fields."""
        format, choice = self.file.format or "chat", self.file.fields.choice
        return parse(record._replace(fields=fields), self.file.name, format, choice).faults

    def _text(self, line: int | None, passage: Passage) -> str:
        """A text without mojibake and private data."""
        text = mend_encoding(passage.text)
        hits = self.find(text)
        self.changed(line, passage.field or None, text != passage.text, hits)
        return redact(text, hits)

    def _without_blank_messages(self, line: int | None, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The record without messages that say and call nothing."""
        rewritten = dict(fields)
        for name in ("messages", "conversations", "conversation"):
            messages = fields.get(name)
            if not isinstance(messages, list):
                continue
            kept = [message for message in messages if not _is_blank(message)]
            if kept and len(kept) < len(messages):
                rewritten[name] = kept
                count = len(messages) - len(kept)
                self.note(line, name, "blank-message", f"{count} left out" if count > 1 else "left out")
        return rewritten


def _is_blank(message: Any) -> bool:
    if not isinstance(message, Mapping) or message.get("tool_calls"):
        return False
    said = message.get("content", message.get("value"))
    return said is None or said == [] or (isinstance(said, str) and not said.strip())


def _each_text(name: str, value: Any, visit: Visit) -> Any:
    """A field's text, or each text of its list, as `visit` gives it."""
    if isinstance(value, list):
        return [visit(Passage(f"{name}[{i}]", part)) if isinstance(part, str) else part for i, part in enumerate(value)]
    return visit(Passage(name, value)) if isinstance(value, str) else value
