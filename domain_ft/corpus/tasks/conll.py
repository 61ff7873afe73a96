"""CoNLL columns: a word a line with its tag; blank lines between sentences.

Which column holds the words and which the tags is found by reading the whole file (`Layout.of`): numbers of words in
the first column, comments, chunk tags and columns that hold only O are told from words and from tags of entities.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from domain_ft.corpus.readers.base import BadRecords, decode, read_lines
from domain_ft.corpus.tasks.entities import OUTSIDE, is_tag
from domain_ft.errors import CorpusError

DOCUMENT = "-DOCSTART-"
"""The word of a CoNLL line at which a document begins."""

_BLANKS = re.compile(r"[ \t]+")
_COMMENT = re.compile(r"#(?:\s|$)|#\s*\S+\s*=")
_NUMBER = re.compile(r"(\d+)(?:[-.](\d+))?")  # of a word in CoNLL-U; of several, 3-4; of one that is not there, 3.1
_MISC = re.compile(r"(?:^|\|)(?:NER|NE|ner|ne)=([^|]+)")  # in the last column of CoNLL-U
_CONLLU_COLUMNS = 10

_MOST = 0.9  # of the values of a column, from which on it is one of tags or of numbers
_CHUNKS = frozenset(["NP", "VP", "PP", "ADJP", "ADVP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP", "VG", "PNP"])
"""The types of phrases that chunk tags have: B-NP is no entity."""


def columns_of(line: str) -> list[str]:
    """The columns of a CoNLL line: between tabs, or between blanks where it has no tab."""
    parts = line.split("\t") if "\t" in line else _BLANKS.split(line.strip(" "))
    return [part.strip(" ") for part in parts]


@dataclass(frozen=True)
class Layout:
    """Which column holds what.

    Attributes:
        columns: how many a line has.
        word, tag: their places, counted from 0.
        numbered: whether the first column holds the numbers of words.
        in_misc: whether the tag is `NER=` in the column, as in CoNLL-U's MISC.
        note: what a person should know of the choice; empty where there was none.
    """

    columns: int
    word: int = 0
    tag: int = -1
    numbered: bool = False
    in_misc: bool = False
    note: str = ""

    @classmethod
    def of(
        cls, sentences: Sequence[Sequence[str]], name: str, word: str | None = None, tag: str | None = None
    ) -> Layout:
        """The layout of a file by all of its sentences' lines.

        Args:
            sentences: of lines, comments among them.
            name: of the file, for messages.
            word, tag: the numbers of their columns, counted from 1, where they were named.

        Raises:
            CorpusError: it is not clear which column is the tag, or there is none.
        """
        named = _global_columns(sentences)
        rows = [_without_comments(lines) for lines in sentences]
        sizes = Counter(len(row) for sentence in rows for row in sentence)
        count = max(sizes, key=lambda size: sizes[size], default=0)
        rows = [[row for row in sentence if len(row) == count] for sentence in rows]
        rows = [sentence for sentence in rows if sentence]
        values = [[row[place] for sentence in rows for row in sentence] for place in range(count)]
        while count > 1 and not any(values[count - 1]):  # tabs at the ends of all lines
            count -= 1
        numbered = count > 1 and _are_numbers([[row[0] for row in sentence] for sentence in rows])
        if named and "FORM" in named and count == len(named) and not word:
            word = str(named.index("FORM") + 1)
            entity = next((place for place, column in enumerate(named) if "NER" in column.upper()), None)
            tag = tag or (str(entity + 1) if entity is not None else None)
        first = _place(word, count, name, "--tokens-field") if word else None
        last = _place(tag, count, name, "--tags-field") if tag else None
        if last is None:
            return cls._found(values[:count], numbered, first, name)
        if first is None:
            first = next(place for place in (*range(int(numbered), count), 0) if place != last)
        return cls(count, first, last, numbered)

    @classmethod
    def _found(cls, values: Sequence[Sequence[str]], numbered: bool, word: int | None, name: str) -> Layout:
        """The layout that the values of the columns tell."""
        count = len(values)
        if numbered and count == 2:
            raise CorpusError(
                "the first column holds the numbers of the words, and there is no column of words beside the tags",
                where=name,
                fix="write the word and its tag in each line",
            )
        last = count - 1
        others = [place for place in range(int(numbered), count) if place != word]
        typed = {place: _types(values[place]) for place in others if _share_of_tags(values[place]) >= _MOST}
        entities = [place for place, types in typed.items() if types and not types <= _CHUNKS]
        if 0 in entities and last in typed and last != 0:
            entities.remove(0)  # words that look like tags, such as B-12
        if len(entities) > 1:
            listed = ", ".join(str(place + 1) for place in entities)
            raise CorpusError(
                f"several columns hold tags of entities: {listed}, such as layers of nested ones",
                where=name,
                fix=f"say which one is read: --tags-field {entities[0] + 1} (the number of the column, from 1)",
            )
        if not entities and numbered and count == _CONLLU_COLUMNS and last not in typed:
            return cls._of_misc(values, name)
        tag = entities[0] if entities else last
        if word is None:
            word = next((place for place in range(int(numbered), count) if place != tag), 0)
        note = ""
        if tag != last:
            why = "holds only O" if last in typed and not typed[last] else "holds no tags of entities"
            note = f"the tags are read from column {tag + 1}: column {count} {why} (--tags-field N names another)"
        return cls(count, word, tag, numbered, note=note)

    @classmethod
    def _of_misc(cls, values: Sequence[Sequence[str]], name: str) -> Layout:
        """CoNLL-U, whose tags may be in its last column."""
        if any(_MISC.search(value) for value in values[-1]):
            note = "the tags are read from NER= in the last column (MISC) of CoNLL-U"
            return cls(len(values), 1, len(values) - 1, True, True, note)
        raise CorpusError(
            "this is CoNLL-U, and no column of it holds tags of entities",
            where=name,
            fix="write NER=B-TYPE in the last column (MISC), or a word and its tag in each line",
        )

    @property
    def unread(self) -> list[str]:
        """The columns that nothing reads."""
        read = {self.word, self.tag % max(self.columns, 1), *([0] if self.numbered else [])}
        return [f"column {place + 1}" for place in range(self.columns) if place not in read]

    def is_comment(self, line: str) -> bool:
        """Whether a line is a comment: it begins with #, and is no word with a tag."""
        if not line.startswith("#"):
            return False
        parts = columns_of(line.rstrip("\r\n"))
        return len(parts) != self.columns or not is_tag(self.tag_of(parts))

    def is_word(self, parts: Sequence[str]) -> bool:
        """Whether a line is a word of its own; CoNLL-U repeats words as 3-4, and has some that are not there as 3.1."""
        return not (self.numbered and (found := _NUMBER.fullmatch(parts[0])) and found[2])

    def word_of(self, parts: Sequence[str]) -> str:
        """The word of a line."""
        return parts[self.word]

    def tag_of(self, parts: Sequence[str]) -> str:
        """The tag of a line."""
        if not self.in_misc:
            return parts[self.tag]
        found = _MISC.search(parts[self.tag])
        return found[1] if found else OUTSIDE

    def problem(self, parts: Sequence[str]) -> str | None:
        """What is wrong with a line, in words."""
        if len(parts) < 2:
            return f"the line has {_counted(len(parts))}, where at least 2 are wanted"
        if len(parts) != self.columns and any(parts[self.columns :]):
            return f"the line has {_counted(len(parts))}, where other lines have {self.columns}"
        if len(parts) < self.columns:
            return f"the line has {_counted(len(parts))}, where other lines have {self.columns}"
        if not self.word_of(parts).strip():
            return "the word is empty or white space"
        return None if self.tag_of(parts) else "the tag is empty"

    def with_word(self, line: str, word: str) -> str:
        """A line with another word, to the byte the same in all else.

        A column beside the tag that repeats the word, as a lemma may, goes with it.

        >>> Layout(4).with_word("  Jane  Jane  NNP B-PER", "[NAME]")
        '  [NAME]  [NAME]  NNP B-PER'
        """
        before = self.word_of(columns_of(line.rstrip("\r\n")))
        parts = re.split("(\t)" if "\t" in line else "( +)", line)
        # Between blanks, what comes before the first of them and behind the last one is no column.
        places = range(0, len(parts), 2) if "\t" in line else [p for p, part in enumerate(parts) if part.strip()]
        fixed = {self.tag % self.columns, *([0] if self.numbered else [])}
        for column, place in enumerate(places):
            if column not in fixed and parts[place].strip(" \r\n") == before:
                parts[place] = parts[place].replace(before, word)
        return "".join(parts)


def _without_comments(lines: Iterable[str]) -> list[list[str]]:
    """The columns of the lines of a sentence, but of those that begin as comments do before its first word."""
    rows: list[list[str]] = []
    for line in lines:
        content = line.rstrip("\r\n")
        parts = columns_of(content)
        comes_first = not rows or _COMMENT.match(content)
        if content.startswith("#") and comes_first and (len(parts) < 2 or not is_tag(parts[-1])):
            continue
        rows.append(parts)
    return rows


def _global_columns(sentences: Sequence[Sequence[str]]) -> list[str]:
    """The names of the columns, as CoNLL-U Plus gives them in its first line."""
    first = next((lines[0] for lines in sentences if lines), "")
    _, found, names = first.partition("global.columns =")
    return names.split() if found and first.startswith("#") else []


def _are_numbers(columns: Sequence[Sequence[str]]) -> bool:
    """Whether the first values of the lines of sentences are numbers that begin anew in each of them."""
    longer = [values for values in columns if len(values) > 1]
    return bool(longer) and sum(map(_counts_up, columns)) >= _MOST * len(columns)


def _counts_up(values: Sequence[str]) -> bool:
    found = [_NUMBER.fullmatch(value) for value in values]
    if not all(found):
        return False
    numbers = [int(match[1]) for match in found if match and match[2] is None]
    return bool(numbers) and numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _share_of_tags(values: Sequence[str]) -> float:
    return sum(map(is_tag, values)) / len(values) if values else 0.0


def _types(values: Sequence[str]) -> set[str]:
    """The types of a column's tags; empty where all are O."""
    return {value.partition("-")[2] or value for value in values if value != OUTSIDE and is_tag(value)}


def _place(given: str, count: int, name: str, option: str) -> int:
    """A column's place, by its number."""
    if not given.isdigit() or not 1 <= int(given) <= count:
        raise CorpusError(
            f"{option} {given}: of a file of columns, it is the number of one, from 1 to {count}",
            where=name,
            fix=f"leave {option} out to let the column be found",
        )
    return int(given) - 1


class Block(NamedTuple):
    """A sentence of a CoNLL file and what stands behind it, each line with its newline.

    Attributes:
        sentence: each line after its number; None where it is not UTF-8. The first block may have no sentence.
        behind: blank lines and -DOCSTART- lines.
    """

    sentence: list[tuple[int, str | None]]
    behind: list[str]


def conll_blocks(path: Path, name: str, bad: BadRecords) -> Iterator[Block]:
    """All lines of a CoNLL file, a sentence at a time. `bad` is told of those that are not UTF-8."""
    block = Block([], [])
    for number, offset, raw in read_lines(path, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        if line is not None and (_is_blank(line) or begins_document(line)):
            block.behind.append(line)
            continue
        if block.behind:
            yield block
            block = Block([], [])
        block.sentence.append((number, line))
    yield block


def layout_of(blocks: Iterable[Block], name: str, word: str | None = None, tag: str | None = None) -> Layout:
    """The layout of a file by its blocks: see `Layout.of`."""
    lines = [[line for _, line in block.sentence if line is not None] for block in blocks]
    return Layout.of(lines, name, word, tag)


def looks_like_columns(lines: Sequence[str], most: float) -> bool:
    """Whether most of some lines are columns, a word and the tag of an entity among them."""
    rows = [row for row in _without_comments(lines) if row[0] != DOCUMENT]
    tagged = sum(len(row) > 1 and any(map(is_tag, row[1:])) for row in rows)
    first = sum(len(row) == 2 and is_tag(row[0]) for row in rows)
    misc = sum(len(row) == _CONLLU_COLUMNS and bool(_NUMBER.fullmatch(row[0])) for row in rows)
    return max(tagged, first, misc) > most * len(rows)


def _is_blank(line: str) -> bool:
    return not line.rstrip("\r\n").strip(" \t")


def begins_document(line: str) -> bool:
    """Whether it is a -DOCSTART- line."""
    return columns_of(line.rstrip("\r\n"))[0] == DOCUMENT


def _counted(columns: int) -> str:
    return "1 column" if columns == 1 else f"{columns} columns"
