"""CoNLL columns: one word with its tag per line, and blank lines between sentences.

`Layout.of` detects the columns of words and tags from the whole file. It skips comments and word numbers, and prefers a
column of entity tags to columns of chunk tags or of only O. The separator is the first of these that yields columns:

- tabs, or runs of spaces in a line without tabs;
- runs of tabs and spaces;
- a character such as the semicolon in `word;tag`.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from domain_ft.corpus.readers.base import BadRecords, decode, read_lines
from domain_ft.corpus.tagging.entities import OUTSIDE, is_tag, split_tag
from domain_ft.errors import CorpusError

DOCUMENT = "-DOCSTART-"
"""The word of the line that begins a document."""

_BLANKS = re.compile(r"[ \t]+")
_ANY_BLANKS = "blanks"  # columns are separated by runs of tabs and spaces
_SIGNS = (";", "|", ",", "/")  # tried if tabs and spaces give no columns
_DOCUMENT = re.compile(rf"\s*(?:\d+[\s;|,/]+)?{re.escape(DOCUMENT)}(?![\w-])")
_COMMENT = re.compile(r"[#%](?:\s|$)|[#%]\s*\S+\s*=")
_NUMBER = re.compile(r"(\d+)(?:[-.](\d+))?")  # CoNLL-U: a word, 3; a range of words, 3-4; an empty node, 3.1
_DIGITS = re.compile(r"\d+")
_MISC = re.compile(r"(?:^|\|)(?P<key>NER|NE|ner|ne)=(?P<tag>[^|]+)")  # in the last column of CoNLL-U
_CONLLU_COLUMNS = 10

_MOST = 0.9  # at least this share of the values or lines must fit
_CHUNKS = frozenset(["NP", "VP", "PP", "ADJP", "ADVP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP", "VG", "PNP"])
"""The phrase types of chunk tags: B-NP is not an entity."""


def columns_of(line: str, separator: str = "", count: int = 0) -> list[str]:
    """The columns of a CoNLL line.

    Args:
        separator: a character, or "blanks" for runs of tabs and spaces. If empty, the line is split at each tab, or at
            runs of spaces if it has no tab.
        count: if `separator` is a character, the maximum number of columns; the line is split from the right, so the
            first column may contain the character. 0 for no maximum.
    """
    if separator == _ANY_BLANKS:
        return _BLANKS.split(line.strip(" \t"))
    if separator:
        parts = line.rsplit(separator, count - 1 if count else -1)
    else:
        parts = line.split("\t") if "\t" in line else _BLANKS.split(line.strip(" "))
    return [part.strip(" ") for part in parts]


@dataclass(frozen=True)
class Layout:
    """What the columns of a file hold, and how they are separated.

    Attributes:
        columns: the number of columns.
        word, tag: the indices of their columns, from 0; a negative one counts from the last column.
        numbered: whether the first column holds word numbers.
        in_misc: whether the tag column is MISC of CoNLL-U, with tags as `NER=TAG` or `NE=TAG`.
        note: a remark for the user on how the columns were chosen; may be empty.
        separator: see `columns_of`.
    """

    columns: int
    word: int = 0
    tag: int = -1
    numbered: bool = False
    in_misc: bool = False
    note: str = ""
    separator: str = ""

    @classmethod
    def of(
        cls, sentences: Sequence[Sequence[str]], name: str, word: str | None = None, tag: str | None = None
    ) -> Layout:
        """The layout of a file, determined from all its lines.

        Args:
            sentences: the lines of each sentence, including comments.
            name: of the file, for messages.
            word, tag: the numbers of their columns, from 1, if the user named them.

        Raises:
            CorpusError: it is not clear which columns hold the words and the tags, a named column does not exist, or
                the file has another format.
        """
        separator, size = _separator_of([line for lines in sentences for line in lines], name)
        rows = [_without_comments(lines, separator, size) for lines in sentences]
        layout = replace(cls._of_rows(rows, sentences, name, word, tag), separator=separator)
        if separator not in ("", _ANY_BLANKS):
            _refuse_quoted(layout, sentences, name)
            note = f"the columns are separated by '{separator}'"
            layout = replace(layout, note=f"{note}; {layout.note}" if layout.note else note)
        return layout

    @classmethod
    def _of_rows(
        cls,
        rows: list[list[list[str]]],
        sentences: Sequence[Sequence[str]],
        name: str,
        word: str | None,
        tag: str | None,
    ) -> Layout:
        """The layout of a file from the rows of its sentences."""
        named = _global_columns(sentences)
        sizes = Counter(len(row) for sentence in rows for row in sentence)
        count = max(sizes, key=lambda size: sizes[size], default=0)
        rows = [[row for row in sentence if len(row) == count] for sentence in rows]
        rows = [sentence for sentence in rows if sentence]
        values = [[row[place] for sentence in rows for row in sentence] for place in range(count)]
        while count > 1 and not any(values[count - 1]):  # a tab at the end of every line
            count -= 1
        columns = [[[row[place] for row in sentence] for sentence in rows] for place in range(count)]
        numbered = count > 1 and _are_numbers(columns[0])
        if named and "FORM" in named and count == len(named) and not word:
            word = str(named.index("FORM") + 1)
            entity = next((place for place, column in enumerate(named) if "NER" in column.upper()), None)
            tag = tag or (str(entity + 1) if entity is not None else None)
        word_place = _place(word, count, name, "--tokens-field") if word else None
        tag_place = _place(tag, count, name, "--tags-field") if tag else None
        note = ""
        if word_place is None:
            word_place, note = _words_after_positions(columns, numbered, tag_place, name)
        if tag_place is None:
            layout = cls._of_values(values[:count], numbered, word_place, name)
            return replace(layout, note="; ".join(filter(None, (note, layout.note))))
        if word_place is None:
            word_place = next(place for place in (*range(int(numbered), count), 0) if place != tag_place)
        return cls(count, word_place, tag_place, numbered, note=note)

    @classmethod
    def _of_values(cls, values: Sequence[Sequence[str]], numbered: bool, word: int | None, name: str) -> Layout:
        """The layout of a file from the values of each column."""
        count = len(values)
        if numbered and count == 2:
            raise CorpusError(
                "the first column holds word numbers, and only one other column follows: words or tags are missing",
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
            listed = ", ".join(str(place + 1) for place in entities[:-1])
            raise CorpusError(
                f"columns {listed} and {entities[-1] + 1} hold entity tags, as for nested entities",
                where=name,
                fix=f"choose one: --tags-field {entities[0] + 1} (the number of the column, from 1)",
            )
        if not entities and numbered and count == _CONLLU_COLUMNS and last not in typed:
            return cls._of_misc(values, name)
        tag = entities[0] if entities else last
        if word is None:
            word = next((place for place in range(int(numbered), count) if place != tag), 0)
        note = ""
        if tag != last:
            why = "holds the words" if last == word else _why_no_tags(values[last])
            note = f"the tags are read from column {tag + 1}: column {count} {why} (--tags-field N names another)"
        return cls(count, word, tag, numbered, note=note)

    @classmethod
    def _of_misc(cls, values: Sequence[Sequence[str]], name: str) -> Layout:
        """The layout of CoNLL-U, which may have tags in its last column."""
        keys = sorted({f"{found['key']}=" for value in values[-1] if (found := _MISC.search(value))})
        if keys:
            note = f"the tags are read from {' and '.join(keys)} in the last column (MISC) of CoNLL-U"
            return cls(len(values), 1, len(values) - 1, True, True, note)
        raise CorpusError(
            "this is CoNLL-U without a column of entity tags",
            where=name,
            fix="write NER=B-TYPE in the last column (MISC), or a word and its tag in each line",
        )

    @property
    def unread(self) -> list[str]:
        """The columns that are not read."""
        read = {self.word, self.tag % max(self.columns, 1), *([0] if self.numbered else [])}
        return [f"column {place + 1}" for place in range(self.columns) if place not in read]

    def columns_of(self, line: str) -> list[str]:
        """The columns of a line."""
        return columns_of(line.rstrip("\r\n"), self.separator, self.columns)

    def is_comment(self, line: str) -> bool:
        """Whether a line is a comment: it begins with # or %, and is not a word with a tag.

        The percent sign is also a common word. So a line that begins with % is a word if it has as many columns as
        other lines. A line of only % is a word too, and its missing tag is reported.
        """
        if line.startswith("%"):
            return len(self.columns_of(line)) != self.columns and line.strip() != "%"
        if not line.startswith("#"):
            return False
        parts = self.columns_of(line)
        return len(parts) != self.columns or not is_tag(self.tag_of(parts))

    def words_of_range(self, parts: Sequence[str]) -> range:
        """The word numbers of a CoNLL-U range line such as 3-4; empty for other lines."""
        found = _NUMBER.fullmatch(parts[0]) if self.numbered and "-" in parts[0] else None
        return range(int(found[1]), int(found[2]) + 1) if found and found[2] else range(0)

    def is_word(self, parts: Sequence[str]) -> bool:
        """Whether a line holds a word, rather than a range (3-4) or an empty node (3.1) of CoNLL-U."""
        return not (self.numbered and (found := _NUMBER.fullmatch(parts[0])) and found[2])

    def word_of(self, parts: Sequence[str]) -> str:
        """The word of a line."""
        return parts[self.word]

    def tag_of(self, parts: Sequence[str]) -> str:
        """The tag of a line."""
        if not self.in_misc:
            return parts[self.tag]
        found = _MISC.search(parts[self.tag])
        return found["tag"] if found else OUTSIDE

    def problem(self, parts: Sequence[str]) -> str | None:
        """What is wrong with a line; None if nothing is."""
        if len(parts) < 2:
            return f"the line has {_counted(len(parts))}, where at least 2 are expected"
        if len(parts) < self.columns or any(parts[self.columns :]):
            return f"the line has {_counted(len(parts))}, where other lines have {self.columns}"
        if not self.word_of(parts).strip():
            return "the word is empty or white space"
        return None if self.tag_of(parts) else "the tag is empty"

    def with_word(self, line: str, word: str) -> str:
        """The line with another word, otherwise byte for byte the same.

        Other columns that repeat the word, such as the lemma, are replaced too.

        >>> Layout(4).with_word("  Jane  Jane  NNP B-PER", "[NAME]")
        '  [NAME]  [NAME]  NNP B-PER'
        """
        before = self.word_of(self.columns_of(line))
        if self.separator not in ("", _ANY_BLANKS):
            cells = line.rsplit(self.separator, self.columns - 1)
            parts = [part for cell in cells for part in (cell, self.separator)][:-1]
            places: Sequence[int] = range(0, len(parts), 2)
        elif "\t" in line and not self.separator:
            parts = re.split("(\t)", line)
            places = range(0, len(parts), 2)
        else:  # leading and trailing spaces are not columns
            parts = re.split("([ \t]+)" if self.separator else "( +)", line)
            places = [place for place, part in enumerate(parts) if part.strip()]
        fixed = {self.tag % self.columns, *([0] if self.numbered else [])}
        for column, place in enumerate(places):
            if column not in fixed and parts[place].strip(" \r\n") == before:
                parts[place] = parts[place].replace(before, word)
        return "".join(parts)


def _separator_of(lines: Sequence[str], name: str) -> tuple[str, int]:
    """The separator of a file's columns (see `columns_of`), and the number of columns; ("", 0) for the default.

    Raises:
        CorpusError: nearly every line is a whole sentence of words with tags.
    """
    if not _count_of(lines, ""):
        for separator in (_ANY_BLANKS, *_SIGNS):
            count = _count_of(lines, separator)
            if count:
                return separator, count
        if sum(map(_are_pairs, lines)) >= _MOST * max(len(lines), 1):
            raise CorpusError(
                "each line is a sentence of words with their tags, such as word/tag",
                where=name,
                fix="write a word and its tag in each line, and a blank line after each sentence",
            )
    return "", 0


def _count_of(lines: Sequence[str], separator: str) -> int:
    """The number of columns that a separator gives in nearly all lines, if one column holds tags; otherwise 0."""
    contents = [line.rstrip("\r\n") for line in lines]
    rows = [columns_of(content, separator) for content in contents if not _COMMENT.match(content)]
    sizes = Counter(map(len, rows))
    count = min(sizes, key=lambda size: (-sizes[size], size), default=0)
    # A word that contains the separator would give extra columns. With `count`, lines are split from the right.
    rows = [columns_of(content, separator, count) for content in contents if not _COMMENT.match(content)]
    even = [row for row in rows if len(row) == count]
    if separator in _SIGNS:  # a line such as "flu/B-D and/O" is not columns: a cell holds a tag and the next word
        even = [row for row in even if not any(_BLANKS.search(cell) for cell in row)]
    if count < 2 or len(even) < _MOST * len(rows):
        return 0
    tags = max(_share_of_tags([row[place] for row in even]) for place in range(count))
    return count if tags >= _MOST else 0


def _are_pairs(line: str) -> bool:
    """Whether a line holds several words, each followed by a separator and its tag."""
    items = line.split()
    return len(items) > 1 and any(
        all(is_tag(item.rpartition(sign)[2]) and item.rpartition(sign)[0] for item in items) for sign in (*_SIGNS, "_")
    )


def _refuse_quoted(layout: Layout, sentences: Sequence[Sequence[str]], name: str) -> None:
    """Refuse words in quotation marks, as in CSV: the marks would be learned as part of the words."""
    rows = [layout.columns_of(line) for lines in sentences for line in lines]
    words = [layout.word_of(row) for row in rows if len(row) == layout.columns]
    quoted = [word for word in words if len(word) > 2 and word[0] == word[-1] == '"']
    if len(quoted) > len(words) / 2 or any(layout.separator in word or '""' in word for word in quoted):
        raise CorpusError(
            f"the columns are separated by '{layout.separator}', and words are in quotation marks, as in CSV",
            where=name,
            fix="write a word, a tab and its tag in each line, without quotation marks",
        )


def _without_comments(lines: Iterable[str], separator: str = "", count: int = 0) -> list[list[str]]:
    """The columns of each line of a sentence, without its comments."""
    rows: list[list[str]] = []
    for line in lines:
        content = line.rstrip("\r\n")
        parts = columns_of(content, separator, count)
        looks_like_comment = not rows or _COMMENT.match(content)
        if content.startswith(("#", "%")) and looks_like_comment and (len(parts) < 2 or not is_tag(parts[-1])):
            continue
        rows.append(parts)
    return rows


def _global_columns(sentences: Sequence[Sequence[str]]) -> list[str]:
    """The column names in the first line of CoNLL-U Plus; empty for other files."""
    first = next((lines[0] for lines in sentences if lines), "")
    _, found, names = first.partition("global.columns =")
    return names.split() if found and first.startswith("#") else []


def _are_numbers(sentences: Sequence[Sequence[str]]) -> bool:
    """Whether a column holds word numbers, which usually restart in each sentence."""
    longer = [values for values in sentences if len(values) > 1]
    if not longer:
        return False
    if sum(map(_counts_up, sentences)) >= _MOST * len(sentences):
        return True
    found = [_NUMBER.fullmatch(value) for values in sentences for value in values]
    if not all(found):
        return False
    # The numbers may also continue through a document.
    numbers = [int(match[1]) for match in found if match and match[2] is None]
    if len(numbers) < 2:
        return False
    return sum(after == before + 1 for before, after in itertools.pairwise(numbers)) >= _MOST * (len(numbers) - 1)


def _words_after_positions(
    columns: Sequence[Sequence[Sequence[str]]], numbered: bool, tag: int | None, name: str
) -> tuple[int | None, str]:
    """The column of words if the columns before it hold positions, such as sentence numbers; and a note on this choice.

    Args:
        columns: by column, the values of each sentence.
        numbered: whether the first column holds word numbers.
        tag: the column of tags if it is known.
        name: of the file, for messages.

    Returns:
        the index of the column, and the note; (None, "") if the column of words is to be chosen as usual.

    Raises:
        CorpusError: a column holds positions, and it is not clear which other column holds the words.
    """
    places = [place for place in range(int(numbered), len(columns)) if place != tag]
    positions = list(itertools.takewhile(lambda place: _are_positions(columns[place]), places))
    if not positions or len(places) < len(positions) + (tag is None):
        return None, ""
    flat = {place: list(itertools.chain.from_iterable(columns[place])) for place in places}
    others = [
        place for place in places if place not in positions and (tag is not None or _share_of_tags(flat[place]) < _MOST)
    ]
    if not others:
        return None, ""
    what = f"column {positions[0] + 1} holds ids of sentences or words, such as '{flat[positions[0]][0]}'"
    if not _are_words(flat[others[0]]):
        raise CorpusError(
            f"{what}, and it is not clear which column holds the words",
            where=name,
            fix=f"name it: --tokens-field {others[0] + 1} (the number of the column, from 1)",
        )
    return others[0], f"the words are read from column {others[0] + 1}: {what} (--tokens-field N names another)"


def _are_positions(sentences: Sequence[Sequence[str]]) -> bool:
    """Whether a column says where a word is: its values are constant within a sentence, or numbers, or names like `s1`.

    Cells may be empty if the file gives the value only once for each sentence.
    """
    values = list(itertools.chain.from_iterable(sentences))
    if _share_of_tags(values) >= _MOST:
        return False
    longer = [values for values in sentences if len(values) > 1]
    constant = sum(len(set(filter(None, values))) <= 1 for values in longer)
    if len(longer) > 1 and constant >= _MOST * len(longer):
        return True
    shapes = Counter(_DIGITS.sub("0", value) for value in values)
    shape, count = shapes.most_common(1)[0] if shapes else ("", 0)
    return len(values) > 1 and "0" in shape and count >= _MOST * len(values)


def _are_words(values: Sequence[str]) -> bool:
    """Whether a column holds words.

    Most values have letters; of these, not all are the same, and most are not in capitals. Values in capitals are
    probably part-of-speech tags.
    """
    lettered = [value for value in values if any(character.isalpha() for character in value)]
    small = sum(not value.isupper() for value in lettered)
    return len(lettered) > len(values) / 2 and small > len(lettered) / 2 and len(set(lettered)) > 1


def _counts_up(values: Sequence[str]) -> bool:
    found = [_NUMBER.fullmatch(value) for value in values]
    if not all(found):
        return False
    numbers = [int(match[1]) for match in found if match and match[2] is None]
    return bool(numbers) and numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _share_of_tags(values: Sequence[str]) -> float:
    return sum(map(is_tag, values)) / len(values) if values else 0.0


def _types(values: Sequence[str]) -> set[str]:
    """The entity types in a column, as from `split_tag`; empty if it has no tags but O."""
    return {split_tag(value)[1] for value in values if value != OUTSIDE and is_tag(value)}


def _why_no_tags(values: Sequence[str]) -> str:
    """Why a column was not chosen as the column of entity tags."""
    if all(value == OUTSIDE for value in values):
        return "holds only O"
    if _types(values) <= _CHUNKS:
        return "holds no entity tags"
    return f"holds tags in fewer than {_MOST:.0%} of its lines"


def _place(number: str, count: int, name: str, option: str) -> int:
    """The index of a column from its number, which the user gave with `option`.

    Raises:
        CorpusError: the file has no such column.
    """
    if not number.isdigit() or not 1 <= int(number) <= count:
        raise CorpusError(
            f"{option} {number}: for a file of columns, this must be a column number from 1 to {count}",
            where=name,
            fix=f"without {option}, the column is determined automatically",
        )
    return int(number) - 1


class Block(NamedTuple):
    """A sentence of a CoNLL file and the lines after it, with their newlines.

    Attributes:
        sentence: (number, line) of each line; the line is None if it cannot be decoded. The first block may have no
            sentence.
        after: the blank lines and -DOCSTART- lines after the sentence.
    """

    sentence: list[tuple[int, str | None]]
    after: list[str]


def conll_blocks(path: Path, name: str, bad: BadRecords) -> Iterator[Block]:
    """All lines of a CoNLL file, one sentence at a time. `bad` receives lines that cannot be decoded."""
    block = Block([], [])
    for number, offset, raw in read_lines(path, name, bad):
        line = decode(raw, name, bad, offset=offset, line=number)
        if line is not None and (_is_blank(line) or begins_document(line)):
            block.after.append(line)
            continue
        if block.after:
            yield block
            block = Block([], [])
        block.sentence.append((number, line))
    yield block


def layout_of(blocks: Iterable[Block], name: str, word: str | None = None, tag: str | None = None) -> Layout:
    """The layout of a file from its blocks: see `Layout.of`."""
    lines = [[line for _, line in block.sentence if line is not None] for block in blocks]
    return Layout.of(lines, name, word, tag)


def looks_like_columns(lines: Sequence[str], most: float) -> bool:
    """Whether more than the share `most` of the lines are columns of words and tags, or sentences of word/tag pairs.

    Lines of CoNLL-U count even without an entity tag.
    """
    lines = [line for line in lines if not begins_document(line)]
    enough = most * len(lines)
    if sum(map(_are_pairs, lines)) > enough:
        return True  # not columns, but the reader explains what is wrong if nearly all lines are like this
    for separator in ("", _ANY_BLANKS, *_SIGNS):
        rows = _without_comments(lines, separator)
        tagged = sum(len(row) > 1 and any(map(is_tag, row[1:])) for row in rows)
        first = sum(len(row) == 2 and is_tag(row[0]) for row in rows)
        misc = sum(len(row) == _CONLLU_COLUMNS and bool(_NUMBER.fullmatch(row[0])) for row in rows)
        if max(tagged, first, misc) > most * len(rows):
            return True
    return False


def _is_blank(line: str) -> bool:
    return not line.rstrip("\r\n").strip(" \t")


def begins_document(line: str) -> bool:
    """Whether the line is a -DOCSTART- line."""
    return bool(_DOCUMENT.match(line))


def _counted(columns: int) -> str:
    return "1 column" if columns == 1 else f"{columns} columns"
