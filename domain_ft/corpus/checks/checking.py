"""Checks the records of a file in one pass: first each record, then all of them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from domain_ft.corpus.checks.copies import Copies
from domain_ft.corpus.checks.encoding import encoding_faults, without_surrogates
from domain_ft.corpus.checks.endings import Endings
from domain_ft.corpus.checks.findings import Finding
from domain_ft.corpus.checks.items import Item, Passage, Rejections
from domain_ft.corpus.checks.languages import Languages, languages_of
from domain_ft.corpus.checks.private import Hit, PrivateData, masked
from domain_ft.corpus.checks.statistics import Lengths
from domain_ft.corpus.checks.winners import Winners
from domain_ft.corpus.conversations.placeholders import Placeholders
from domain_ft.corpus.left_out import LeftOut


class Measure(Protocol):
    """Counts the tokens of records. `lengths.TokenLengths` implements it."""

    def add(self, item: Item) -> Iterator[Finding]:
        """Count a record. Yields findings on its length or rendering."""

    def statistics(self) -> dict[str, Any]:
        """The counts of all records."""


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
        findings: the findings, in the order of the file.
        statistics: counts and lengths, as values for JSON.
        spare: the lines of copies and near copies that a cleaned file leaves out.
    """

    findings: Sequence[Finding]
    statistics: dict[str, Any]
    spare: Collection[int | None] = ()

    @property
    def errors(self) -> list[Finding]:
        """Findings on records that a verb would refuse or learn wrongly."""
        return [finding for finding in self.findings if finding.error]

    @property
    def warnings(self) -> list[Finding]:
        """All other findings."""
        return [finding for finding in self.findings if not finding.error]


class Checker:
    """Checks the records of a file one by one. It does not keep their texts.

    Args:
        languages: the allowed languages; empty to allow the main languages of the file.
        private: finds personal data and secrets; None to skip this.
        measure: counts tokens; None to count only characters.
        test: the hashes of the test file's records; None if there is no test file.
    """

    def __init__(
        self,
        *,
        languages: Sequence[str] = (),
        private: PrivateData | None = None,
        measure: Measure | None = None,
        test: Copies | None = None,
    ) -> None:
        self.languages = Languages(languages)
        self.private, self.measure, self.test = private, measure, test
        self.copies, self.endings, self.winners = Copies(), Endings(), Winners()
        self.placeholders = Placeholders()
        self.findings: list[Finding] = []
        self.records = self.unreadable = 0
        self.roles: Counter[str] = Counter()
        self.labels: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self.messages, self.prompts, self.answers, self.texts = Lengths(), Lengths(), Lengths(), Lengths()

    def check(self, items: Iterable[Item], rejections: Rejections, left: LeftOut | None = None) -> CheckResult:
        """Check all records.

        Args:
            items: the readable records.
            rejections: receives the records that cannot be read; filled while `items` is iterated.
            left: receives counts of what is not used; filled in the same way.
        """
        for item in items:
            self._rejected(rejections)
            self.add(item)
        self._rejected(rejections)
        if not self.records and not any(finding.error for finding in self.findings):
            self.findings.append(Finding(None, None, "empty-file", "the file holds no records", error=True))
        self.findings += self.languages.findings()
        self.findings += self.endings.findings()
        self.findings += self.winners.findings()
        self.findings += self.copies.findings()
        self.findings += [
            Finding(one.line, None, "unfilled-placeholder", one.message) for one in self.placeholders.unfilled()
        ]
        if self.test is not None:
            self.findings += self.copies.leaks(self.test)
        self.findings.sort(key=lambda finding: finding.order)
        return CheckResult(self.findings, self._statistics(left or LeftOut()), self.copies.spare)

    def _rejected(self, rejections: Rejections) -> None:
        findings = rejections.take()
        self.unreadable += sum(finding.error for finding in findings)
        self.findings += findings

    def add(self, item: Item) -> None:
        """Check one record."""
        self.records += 1
        self.findings += item.findings
        for passage in item.passages:
            self._check_passage(item, passage)
        self.roles.update(item.roles)
        self.labels.update(item.labels)
        self.unread.update(item.unread)
        self.copies.add_item(item)
        if item.conversation is not None:
            answers = sum(len(turn.content) for turn in item.conversation.turns if turn.role == "assistant")
            self.placeholders.add(item.line, (turn.content for turn in item.conversation.turns))
            self.messages.add(len(item.conversation.turns))
            self.answers.add(answers)
            self.prompts.add(sum(len(turn.content) for turn in item.conversation.turns) - answers)
        elif item.examples:
            self._add_examples(item)
        elif item.passages and not item.roles:
            self.texts.add(len(item.text))
        if self.measure is not None:
            self.findings += self.measure.add(item)

    def _add_examples(self, item: Item) -> None:
        turns = [turn.content for turn in item.examples[0].prompt]
        self.placeholders.add(item.line, turns)
        self.prompts.add(sum(map(len, turns)))
        for example in item.examples:
            self.winners.add(example)
            for answer in example.answers:
                self.answers.add(sum(len(turn.content) for turn in answer))

    def _check_passage(self, item: Item, passage: Passage) -> None:
        line, field = item.line, passage.field or None
        known = {(finding.field, finding.kind) for finding in item.findings}
        for kind, message in encoding_faults(passage.text):
            if (field, kind) not in known:
                self.findings.append(Finding(line, field, kind, message))
        text = without_surrogates(passage.text)
        self.languages.add(line, passage.field, text)
        if passage.role == "assistant":
            self.endings.add(line, passage.field, text)
        if self.private is not None:
            hits = self.private.find(text, self.languages.main or next(iter(languages_of(text)), None))
            self.findings += _private_findings(line, field, text, hits)

    def _statistics(self, left: LeftOut) -> dict[str, Any]:
        kinds = Counter(finding.kind for finding in self.findings)
        statistics: dict[str, Any] = {"records": self.records, "unreadable": self.unreadable}
        if self.messages.values:
            statistics |= {
                "conversations": len(self.messages.values),
                "roles": dict(self.roles.most_common()),
                "messages": self.messages.summary(),
                "prompt_characters": self.prompts.summary(),
                "answer_characters": self.answers.summary(),
            }
        elif self.prompts.values:
            statistics |= {
                "preferences": self.winners.examples,
                "prompt_characters": self.prompts.summary(),
                "answer_characters": self.answers.summary(),
                **self.winners.statistics(),
            }
        if self.texts.values:
            statistics["text_characters"] = self.texts.summary()
        if self.labels:
            statistics["labels"] = dict(self.labels.most_common())
        if self.measure is not None:
            statistics |= self.measure.statistics()
        return statistics | {
            "unread_fields": dict((self.unread + left.fields).most_common()),
            "unread_files": left.to_result()["unread_files"],
            "languages": dict(self.languages.counts.most_common()),
            "duplicates": kinds["duplicate"],
            "near_duplicates": kinds["near-duplicate"],
            "contradicting_answers": kinds["contradicting-answers"],
            "findings": dict(kinds.most_common()),
        }


def _private_findings(line: int | None, field: str | None, text: str, hits: Sequence[Hit]) -> Iterator[Finding]:
    """A finding for each kind of private data in a text."""
    counts = Counter(hit.kind for hit in hits)
    for kind, count in counts.items():
        first = next(hit for hit in hits if hit.kind == kind)
        more = f", and {count - 1:,} more" if count > 1 else ""
        yield Finding(line, field, kind, f"it contains {first.what}: {masked(text[first.start : first.end])}{more}")
