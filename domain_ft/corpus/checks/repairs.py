"""Writes a cleaned copy of a file: fixes what is safe to fix, leaves out what cannot be used, and lists each change.

Fixed: text that was read in a wrong encoding, personal data and secrets (masked; for tagged text see `tag_repairs`),
and empty messages (removed). Left out: unusable records and tagged sentences, copies, near copies with the same labels
and a similar prompt, and rows of the test file. Unchanged: contradicting answers, labels and entities, and answers that
seem truncated or are in another language, because the right version is not known.
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
from typing import Any, TextIO, cast

from domain_ft.corpus.checks.checking import CheckResult
from domain_ft.corpus.checks.conversations import rewrite
from domain_ft.corpus.checks.encoding import fix_encoding, without_surrogates
from domain_ft.corpus.checks.items import Passage, Rejections, Visit
from domain_ft.corpus.checks.opening import CheckedFile
from domain_ft.corpus.checks.preferences import rewrite_preferences
from domain_ft.corpus.checks.private import Hit, PrivateData, redact
from domain_ft.corpus.checks.tag_repairs import fix_columns, fix_record
from domain_ft.corpus.conversations.formats import Fault, Format, parse
from domain_ft.corpus.preferences.fields import PreferenceFormat
from domain_ft.corpus.readers.base import BOM, BadRecords, RawRecord, Reject, decode, open_bytes, read_lines
from domain_ft.corpus.readers.files import ending
from domain_ft.corpus.tagging.conll import begins_document, conll_blocks, layout_of
from domain_ft.corpus.tagging.fields import TagFields
from domain_ft.corpus.tagging.reading import file_kind, read_tagged, resolve_fields
from domain_ft.errors import CorpusError
from domain_ft.locks import refuse_below_file, writing_beside

_COPIES = frozenset({"duplicate", "near-duplicate"})
# Errors that `_Repairing._fixed` may fix. A record with one is checked again before it is left out.
_FIXABLE = frozenset({"empty-prompt", "empty-answer", "missing-content"})
_NOT_ALTERNATING = "roles-do-not-alternate"  # after a blank message is removed, an answer may have no prompt


@dataclass
class Repaired:
    """The result of a repair.

    Attributes:
        output, changes_file: the cleaned file, and the list of changes.
        records: the number of records written.
        rejected: the number of records left out. Each is listed in the changes.
        changes: the number of changes by kind.
    """

    output: Path
    changes_file: Path
    records: int = 0
    rejected: int = 0
    changes: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """The result in the output of `--json`."""
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
    """Write a cleaned copy of a checked file.

    Args:
        file: the file, which is read again.
        found: the result of the check.
        output: a new file: plain text or CoNLL columns like `file`, otherwise JSON lines. The changes are written to
            OUTPUT.changes.jsonl.
        private: finds personal data and secrets; None to keep them.
        language: the main language of the file.

    Raises:
        UserError: see `refuse_output`; or another process is writing to `output`, or `fix_record` refuses a record.
    """
    with writing_beside(output):
        return _repair(file, found, output, private, language)


def refuse_output(file: CheckedFile, output: Path) -> None:
    """Check that the cleaned copy can be written to `output`, before the file is read.

    Raises:
        UserError: the output or its list of changes exists already, the output is below a file, cannot be created or
            has the wrong ending, or `file` is in BRAT format.
    """
    refuse_below_file(output, "--fix")
    for path in (output, _changes_file(output)):
        if path.exists():
            raise CorpusError(f"--fix {output}: {path} exists already", fix="give a new name; nothing was changed")
    if file.kind == "tags" and file_kind(file.path) == "brat":
        raise CorpusError(
            "--fix: BRAT's files are only checked, not fixed",
            where=file.name,
            fix="correct them by hand, with the listed findings",
        )
    required = ending(file.path) if file.is_plain else ".jsonl"
    if output.suffix.lower() != required:
        must = f"the name has to end in {required}" if required else "the name must have no ending"
        what = "like that of the file" if file.is_plain else "because the copy is JSON lines"
        raise CorpusError(f"--fix {output}: {must}, {what}", fix=f"give {output.stem}{required}")


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
        if file.path.suffix != ".parquet" and _has_bom(file.path):
            repairing.note(1, None, "byte-order-mark", "left out")
            repairing.keep()
        repairing.run()
    return repaired


@contextlib.contextmanager
def _written(path: Path) -> Iterator[TextIO]:
    """A file that is moved to `path` if the block ends without an error."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _has_bom(path: Path) -> bool:
    with open_bytes(path) as file:
        return file.read(len(BOM)) == BOM


@dataclass
class _Repairing:
    """The state of one call of `repair`."""

    file: CheckedFile
    found: CheckResult
    private: PrivateData | None
    language: str | None
    copy: TextIO
    changes: TextIO
    repaired: Repaired
    pending: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left_out: dict[int | None, tuple[str, str]] = {}  # by line, (kind, reason)
        for finding in self.found.findings:
            final = finding.error and not (self.file.kind == "conversations" and finding.kind in _FIXABLE)
            copied = finding.kind in _COPIES and finding.line in self.found.spare
            if finding.line is not None and (final or copied):
                self.left_out.setdefault(finding.line, (finding.kind, finding.message))
        if self.file.kind == "tags":
            self._recheck_tags()

    def _recheck_tags(self) -> None:
        """Leave out the records with bad tags, repeatedly: without them, another tag scheme may be detected."""
        file, before = self.file, -1
        while before < len(self.left_out):
            before, rejections = len(self.left_out), Rejections(encoding=file.fields.encoding)
            read_tagged(file.path, file.name, file.tag_fields, None, rejections.bad, self.left_out)
            for finding in rejections.take():
                if finding.line is not None:
                    self.left_out.setdefault(finding.line, (finding.kind, finding.message))

    def note(self, line: int | None, field: str | None, kind: str, change: str) -> None:
        """Note a change to a record. `keep` writes the noted changes to the list, `leave_out` drops them."""
        self.pending.append({"line": line, "field": field, "kind": kind, "change": change})

    def keep(self) -> None:
        """Write the noted changes to the list of changes."""
        for change in self.pending:
            self.repaired.changes[change["kind"]] += 1
            self.changes.write(json.dumps(change, ensure_ascii=False) + "\n")
        self.pending.clear()

    def leave_out(self, line: int | None, kind: str, why: str) -> None:
        """Write to the list of changes that a record is left out."""
        self.pending.clear()
        self.repaired.rejected += 1
        self.note(line, None, kind, f"left out: {why}")
        self.keep()

    def rejected(self, reject: Reject) -> None:
        """Write to the list of changes that a record cannot be read."""
        kind, _ = self.left_out.get(reject.line, ("unreadable", ""))
        self.leave_out(reject.line, kind, reject.reason)

    def changed(self, line: int | None, field: str | None, fixed: bool, hits: Sequence[Hit]) -> None:
        """Note whether a text was fixed, and what was masked in it."""
        if fixed:
            self.note(line, field, "mojibake", "fixed")
        for (kind, mark), count in Counter((hit.kind, hit.mark) for hit in hits).items():
            self.note(line, field, kind, f"masked: {mark}" if count == 1 else f"masked: {count} × {mark}")

    def find(self, text: str) -> Sequence[Hit]:
        """The private data in a text."""
        return self.private.find(text, self.language) if self.private else []

    def run(self) -> None:
        """Write all records that are kept."""
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
            fields = self._fixed(record)
            if fields is not None:
                self.keep()
                self.repaired.records += 1
                line = json.dumps(fields, ensure_ascii=False, default=str)
                self.copy.write(without_surrogates(line) + "\n")  # other fields may contain surrogates

    @functools.cached_property
    def tag_fields(self) -> TagFields:
        """The fields of the file's tagged records."""
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
        # The check found the faults of single lines, and each sentence with one is left out below. So only faults
        # without a line are noted here.
        bad = BadRecords(
            "skip",
            lambda reject: self.rejected(reject) if reject.line is None else None,
            self.file.fields.encoding,
        )
        blocks = list(conll_blocks(self.file.path, self.file.name, bad))
        layout = layout_of(blocks, self.file.name, self.file.tag_fields.tokens, self.file.tag_fields.tags)
        for sentence, after in blocks:
            why = next((self.left_out[number] for number, _ in sentence if number in self.left_out), None)
            if why is not None:
                self.leave_out(sentence[0][0], *why)
                after = list(itertools.dropwhile(lambda line: not begins_document(line), after))  # drop its blank lines
            elif sentence:
                lines = [(number, line) for number, line in sentence if line is not None]
                self.copy.writelines(fix_columns(lines, layout, self.find, self.changed))
                self.keep()
                self.repaired.records += 1
            self.copy.writelines(after)

    def _fixed(self, record: RawRecord) -> dict[str, Any] | None:
        """The fields of a record with its texts fixed; None if it is left out."""
        if self.file.kind == "tags":
            return fix_record(record, self.tag_fields, self.find, self.changed)

        def visit(passage: Passage) -> str:
            return self._text(record.line, passage)

        if self.file.kind == "preferences" and self.file.format is not None:
            format = cast(PreferenceFormat, self.file.format)
            return rewrite_preferences(record.fields, format, self.file.fields.preferences, visit)
        if self.file.kind != "conversations" or self.file.format is None:
            texts = self.file.text_fields
            return {
                name: _each_text(name, value, visit) if name in texts else value
                for name, value in record.fields.items()
            }
        fields = rewrite(record.fields, cast(Format, self.file.format), self.file.fields.choice, visit)
        faults = self._faults(record, fields)
        if any(fault.error for fault in faults):
            fields = self._without_blank_messages(record.line, fields)
            faults = [fault for fault in self._faults(record, fields) if fault.error or fault.kind == _NOT_ALTERNATING]
            if faults:
                self.leave_out(record.line, faults[0].kind, faults[0].message)
                return None
        return fields

    def _faults(self, record: RawRecord, fields: Mapping[str, Any]) -> Sequence[Fault]:
        """The faults of a record with these fields."""
        format, choice = cast(Format, self.file.format or "chat"), self.file.fields.choice
        return parse(record._replace(fields=fields), self.file.name, format, choice).faults

    def _text(self, line: int | None, passage: Passage) -> str:
        """The text of a passage, with mojibake fixed and private data masked. Both are noted."""
        text = fix_encoding(passage.text)
        hits = self.find(text)
        self.changed(line, passage.field or None, text != passage.text, hits)
        return redact(text, hits)

    def _without_blank_messages(self, line: int | None, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The record without blank messages."""
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
    content = message.get("content", message.get("value"))
    return content is None or content == [] or (isinstance(content, str) and not content.strip())


def _each_text(name: str, value: Any, visit: Visit) -> Any:
    """A field with its text, or each text in its list, replaced by what `visit` returns."""
    if isinstance(value, list):
        return [visit(Passage(f"{name}[{i}]", part)) if isinstance(part, str) else part for i, part in enumerate(value)]
    return visit(Passage(name, value)) if isinstance(value, str) else value
