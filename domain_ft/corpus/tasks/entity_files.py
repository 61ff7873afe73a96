"""Files of texts with entities: CoNLL columns, records of words and tags or of text and spans, and files of tools.

A file is read whole before its tags are judged, since its scheme shows only in all of them; and before spans are, since
one cause may explain all that do not fit. Offsets count Unicode characters (code points) as Python does, unless
`TagFields.offsets` says otherwise.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from domain_ft.corpus.left_out import VERDICT, LeftOut
from domain_ft.corpus.readers import raw_records
from domain_ft.corpus.readers.base import BadRecords, kind_of, read_lines
from domain_ft.corpus.readers.files import ending
from domain_ft.corpus.readers.records import json_values
from domain_ft.corpus.tasks.annotations import (
    SPANS_FIELDS,
    Outcome,
    Passed,
    Plain,
    are_labelled_spans,
    is_words,
    outcomes,
    records_of,
)
from domain_ft.corpus.tasks.conll import begins_document, conll_blocks, layout_of
from domain_ft.corpus.tasks.entities import (
    OUTSIDE,
    Scheme,
    Span,
    TagError,
    TaggedText,
    chunks,
    is_tag,
    join_words,
    keep_longest,
    recognise,
)
from domain_ft.corpus.tasks.knowledge_bases import KnowledgeBaseError, flat_spans, is_knowledge_base, read_document
from domain_ft.corpus.tasks.offsets import COUNTED, Claim, Counting, contradiction, likely_causes
from domain_ft.corpus.tasks.spans import NAMED, claims_of, holds, own_text_keys, read_span, unread_keys
from domain_ft.corpus.tasks.standoff import is_brat, is_pubtator, read_bioc_xml, read_brat, read_pubtator
from domain_ft.errors import CorpusError, nearest

TEXT_FIELDS = ("text",)
TOKENS_FIELDS = ("tokens", "words")
TAGS_FIELDS = ("tags", "ner_tags", "labels")

Role = Literal["text", "tokens", "tags", "spans"]
_USUAL: Mapping[Role, tuple[str, ...]] = {
    "text": TEXT_FIELDS,
    "tokens": TOKENS_FIELDS,
    "tags": TAGS_FIELDS,
    "spans": SPANS_FIELDS,
}

_NO_SPANS = ("tokens", "words", "relations", "sentences", "sents")  # lists of places that are no entities

FileKind = Literal["columns", "records", "parquet", "brat", "pubtator", "bioc"]

_RECORD_ENDINGS = (".jsonl", ".json", ".ndjson")
_TO_JSON_LINES = 'write JSON lines of {"text": ..., "entities": [{"start", "end", "label"}]}'
_NOT_READ = {
    ".spacy": ("spaCy's binary format (DocBin)", f"{_TO_JSON_LINES} from DocBin().from_disk(F).get_docs(nlp.vocab)"),
    ".xmi": ("UIMA's XMI", "export CoNLL columns, BRAT or BioC instead"),
    ".zip": ("an archive", "unpack it, and give the file or the BRAT folder in it"),
    ".csv": ("a table, which holds no places of entities", _TO_JSON_LINES),
}


@dataclass(frozen=True)
class TagFields:
    """Which fields of a JSON record hold what; where None, the usual names are tried.

    Of a file of columns, `tokens` and `tags` may be the numbers of columns, counted from 1.

    Attributes:
        offsets: how the spans count.
        usual_spans: the field that most of a file's spans are in, where `spans` is not named: see `with_usual_spans`.
    """

    text: str | None = None
    tokens: str | None = None
    tags: str | None = None
    spans: str | None = None
    id: str | None = None
    group: str | None = None
    offsets: Counting = "characters"
    usual_spans: str | None = None

    def name(self, role: Role, record: Mapping[str, Any]) -> str:
        """The field of a role: the one that was named, else the first usual one that is there, else the usual one.

        Of spans, a usual one that holds a list goes first.
        """
        named: str | None = getattr(self, role)
        if named:
            return named
        there = [name for name in _USUAL[role] if name in record]
        if role == "spans":
            if self.usual_spans is not None and isinstance(record.get(self.usual_spans), list):
                return self.usual_spans
            there = [name for name in there if isinstance(record[name], list)] or there
        return there[0] if there else _USUAL[role][0]

    def has_words(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is one of words with tags."""
        tokens = self.name("tokens", record)
        if tokens not in record:
            return False
        return is_words(record[tokens]) and not (
            self.name("text", record) in record
            and self.name("tags", record) not in record
            and self.name("spans", record) in record
        )


@dataclass
class _Sentence:
    """Words with tags as the file has them, not judged yet. `lines` is the line of each word."""

    words: list[str]
    tags: list[str]
    lines: list[int]
    id: str
    group: str


@dataclass(frozen=True)
class Entry:
    """A plain record and where it is: its line, or its number where the source has no lines."""

    line: int
    plain: Plain


# ------------------------------------------------------------------------------------------------------- kinds of files


def file_kind(path: Path) -> FileKind:
    """How a file, or a folder of BRAT's, is read: by its ending, else by its first line.

    Raises:
        CorpusError: it is of a known kind that is not read.
    """
    if is_brat(path):
        return "brat"
    end = ending(path)
    if end in _NOT_READ:
        what, fix = _NOT_READ[end]
        raise CorpusError(f"this is {what}: `tag` does not read it", where=path.name, fix=fix)
    if end == ".parquet":
        return "parquet"
    if end in _RECORD_ENDINGS:
        return "records"
    first = _first_line(path)
    if first.startswith("#FORMAT=WebAnno"):
        fix = "export CoNLL 2003 or BRAT from INCEpTION or WebAnno instead"
        raise CorpusError("this is WebAnno's TSV: `tag` does not read it", where=path.name, fix=fix)
    if end in (".pubtator",) or is_pubtator(first):
        return "pubtator"
    if end == ".xml" or first.lstrip().startswith(("<?xml", "<collection", "<!DOCTYPE")):
        return "bioc"
    return "records" if _is_json(first) else "columns"


def _first_line(path: Path) -> str:
    """The first line that is not blank; empty where the file cannot be read, which its reader reports."""
    lines = read_lines(path, path.name, BadRecords("skip", lambda _: None))
    return next((raw.decode("utf-8", "replace") for _, _, raw in lines if raw.strip()), "")


def _is_json(line: str) -> bool:
    if line.strip() in ("[", "{", "[{"):
        return True
    try:
        return isinstance(json.loads(line), dict | list)
    except (ValueError, RecursionError):
        return False


def has_columns(path: Path) -> bool:
    """Whether a file is read as CoNLL columns."""
    return file_kind(path) == "columns"


def read_tagged(
    path: Path,
    name: str,
    fields: TagFields,
    scheme: Scheme | None,
    bad: BadRecords,
    without: Collection[int | None] = (),
    left: LeftOut | None = None,
    notes: list[str] | None = None,
) -> tuple[list[TaggedText], Scheme | None]:
    """The texts of a file with their entities, and the scheme of its tags.

    Args:
        path: a file of any `FileKind`, or a folder of BRAT's; text files may end in .gz too.
        name: what it is called in messages and ids.
        fields: of JSON records, or of columns.
        scheme: of the tags; None to find it.
        bad: told of every record that cannot be read.
        without: lines: sentences of words that have any of them are passed over, as if they were not in the file.
        left: takes the counts of what nothing reads.
        notes: takes what a person should know of how the file is read.

    Returns:
        the texts in the file's order, and the scheme; None where the file has spans of characters.

    Raises:
        RecordError: a bad record, where `bad` stops at them.
        CorpusError: the file is of a kind that is not read, or it is not clear which column holds the tags.
    """
    left = LeftOut() if left is None else left
    if not has_columns(path):
        records = entries(path, name, fields, bad, left)
        return read_tagged_records(records, name, fields, scheme, bad, without, left, notes)
    sentences = _conll_sentences(path, name, fields, bad, left, [] if notes is None else notes)
    if len({sentence.group for sentence in sentences}) == 1:  # one -DOCSTART- at the top says nothing of documents
        for sentence in sentences:
            sentence.group = sentence.id
    return _with_scheme(sentences, name, scheme, bad, without)


def entries(path: Path, name: str, fields: TagFields, bad: BadRecords, left: LeftOut | None = None) -> Iterator[Entry]:
    """The plain records of a file without columns. Those that their annotators rejected are listed and left out."""
    for line, outcome in _outcomes(path, name, fields, bad, LeftOut() if left is None else left):
        if isinstance(outcome, Plain):
            yield Entry(line, outcome)
        elif isinstance(outcome, Passed):
            bad.leave_out(outcome.reason, file=name, line=line, field=outcome.field)
        else:
            bad.add(outcome.reason, file=name, line=line, field=outcome.field, fix=outcome.fix)


def _outcomes(
    path: Path, name: str, fields: TagFields, bad: BadRecords, left: LeftOut
) -> Iterator[tuple[int, Outcome]]:
    kind = file_kind(path)
    if kind == "brat":
        yield from read_brat(path, bad, left)
    elif kind == "pubtator":
        yield from read_pubtator(path, name, bad)
    elif kind == "bioc":
        yield from read_bioc_xml(path, name, bad)
    elif kind == "parquet":
        from domain_ft.corpus.readers.parquet import file_class_names  # imports pyarrow

        known = file_class_names(path)
        for record in raw_records(path, name, "parquet", bad):
            yield record.line or 0, Plain(named_classes(record.fields, known))
    else:
        for line, value in tagged_values(path, name, bad):
            for outcome in outcomes(value, fields.text):
                yield line, outcome


def named_classes(record: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A record with names where numbers stand for them. A number without a name stays, and is refused as a tag."""
    named = {
        field: [
            known[number] if isinstance(number, int) and 0 <= number < len(known) else number
            for number in record[field]
        ]
        for field, known in names.items()
        if isinstance(record.get(field), list)
    }
    return {**record, **named}


def with_usual_spans(fields: TagFields, records: Sequence[Entry]) -> tuple[TagFields, list[str]]:
    """The fields with the one whose spans are read in all records of a file, and what to say where there are more.

    Records may hold several lists of spans, such as those of two annotators, or of a model beside a person's. One of
    them is read in the whole file: the first usual name that any record has spans under, else the only other field.
    """
    counts = Counter(
        field
        for entry in records
        for field, value in entry.plain.record.items()
        if field not in _NO_SPANS and are_labelled_spans(value)
    )
    usual = [field for field in SPANS_FIELDS if field in counts]
    words = any(fields.has_words(entry.plain.record) for entry in records)
    chosen = fields.spans or next(iter(usual or (counts if len(counts) == 1 else ())), None)
    others = ", ".join(f"'{field}' ({count:,})" for field, count in counts.items() if words or field != chosen)
    notes = []
    if others and words:
        notes = [f"the entities are read from the tags of the words, and not from the lists of spans: {others}"]
    elif others and chosen is not None:
        notes = [
            f"the entities are read from '{chosen}'; other lists of spans are not read: {others} "
            "(--spans-field names another)"
        ]
    return (fields if words or chosen is None else replace(fields, usual_spans=chosen)), notes


def settled_fields(path: Path, name: str, fields: TagFields, bad: BadRecords) -> TagFields:
    """The fields as `read_tagged` settles them for the records of a file."""
    return with_usual_spans(fields, list(entries(path, name, fields, bad)))[0]


def read_tagged_records(
    records: Iterable[Entry],
    name: str,
    fields: TagFields,
    scheme: Scheme | None,
    bad: BadRecords,
    without: Collection[int | None] = (),
    left: LeftOut | None = None,
    notes: list[str] | None = None,
) -> tuple[list[TaggedText], Scheme | None]:
    """`read_tagged` of plain records, whatever they were read from."""
    sentences: list[_Sentence] = []
    texts: list[TaggedText] = []
    given = list(records)
    fields, said = with_usual_spans(fields, given)
    if notes is not None:
        notes += said
    everything = [_Known(entry, fields, name, bad) for entry in given]
    claims = _Claims(own_text_keys(itertools.chain.from_iterable(map(_spans_in, everything)), fields.offsets))
    for known in everything:
        if fields.has_words(known.record):
            sentence = _tagged_words(known)
            sentences += [sentence] if sentence else []
            read = sentence is not None
        else:
            passages = is_knowledge_base(known.record) and not known.has("text")
            text = _text_of_passages(known) if passages else _spanned_text(known, claims)
            texts += [text] if text else []
            read = text is not None
        if read and left is not None:
            known.count_unread(left, claims.keys)
    claims.reject()
    if sentences and texts:
        raise CorpusError(
            "some records have words with tags, others text with spans",
            where=f"{name}: {len(sentences)} with words, {len(texts)} without, such as in line {texts[0].line}",
            fix="write all records in one form, or give two files",
        )
    return (texts, None) if texts else _with_scheme(sentences, name, scheme, bad, without)


def _with_scheme(
    sentences: Sequence[_Sentence], name: str, scheme: Scheme | None, bad: BadRecords, without: Collection[int | None]
) -> tuple[list[TaggedText], Scheme]:
    sentences = [sentence for sentence in sentences if not any(line in without for line in sentence.lines)]
    scheme = scheme or recognise(sentence.tags for sentence in sentences)
    return list(_judged(sentences, name, scheme, bad)), scheme


def _judged(sentences: Sequence[_Sentence], name: str, scheme: Scheme, bad: BadRecords) -> Iterator[TaggedText]:
    """The sentences whose tags can stand where they stand, as texts with spans."""
    for sentence in sentences:
        try:
            found = chunks(sentence.tags, scheme)
        except TagError as error:
            line = sentence.lines[error.index]
            word = sentence.words[error.index]
            fix = "mend the tag, or name the file's scheme if it was taken for another: --scheme iob1|iob2|bioes"
            bad.add(f"{error}, at the word '{word}'", file=name, line=line, fix=fix)
            continue
        text, bounds = join_words(sentence.words)
        spans = tuple(Span(bounds[span.start][0], bounds[span.end - 1][1], span.label) for span in found)
        yield TaggedText(sentence.id, text, bounds, spans, sentence.group, name, sentence.lines[0])


# --------------------------------------------------------------------------------------------------------------- CoNLL


def _conll_sentences(
    path: Path, name: str, fields: TagFields, bad: BadRecords, left: LeftOut, notes: list[str]
) -> list[_Sentence]:
    """Sentences of columns. A blank line ends one, a -DOCSTART- line a document."""
    documents = 0
    found = []
    blocks = list(conll_blocks(path, name, bad))
    layout = layout_of(blocks, name, fields.tokens, fields.tags)
    notes += [layout.note] if layout.note else []
    for block in blocks:
        sentence = _Sentence([], [], [], "", "")
        spoiled = False  # a line of the sentence could not be read: it is left out whole
        ranges: list[tuple[int, range]] = []  # the lines of several words that have the tag of an entity
        tagged: set[str] = set()  # the numbers of the words that have one
        for number, line in block.sentence:
            if line is None:
                spoiled = True
                continue
            if layout.is_comment(line):
                continue
            parts = layout.columns_of(line)
            problem = layout.problem(parts)
            if problem:
                if not spoiled:
                    bad.add(problem, file=name, line=number, fix="write a word and its tag in each line")
                spoiled = True
            elif not layout.is_word(parts):
                if layout.words_of_range(parts) and is_tag(layout.tag_of(parts)) and layout.tag_of(parts) != OUTSIDE:
                    ranges.append((number, layout.words_of_range(parts)))
            else:
                tagged |= {parts[0]} if layout.tag_of(parts) != OUTSIDE else set()
                sentence.words.append(layout.word_of(parts))
                sentence.tags.append(layout.tag_of(parts))
                sentence.lines.append(number)
        for number, words in ranges:
            if not spoiled and not any(str(word) in tagged for word in words):
                reason = f"the words {words[0]} to {words[-1]} are tagged in the line of all of them, which is not read"
                bad.add(reason, file=name, line=number, fix="write the tag of each word in its own line")
                spoiled = True
        if sentence.words and not spoiled:
            sentence.id = f"{name}:{sentence.lines[0]}"
            sentence.group = f"{name}: document {documents}" if documents else sentence.id
            left.fields.update(layout.unread)
            found.append(sentence)
        documents += sum(map(begins_document, block.behind))
    if len(found) == 1 and len(found[0].words) > 1:
        notes.append(
            f"the file has no blank line between sentences, so that its {len(found[0].words):,} words are one text: "
            "put a blank line behind each sentence"
        )
    return found


# ----------------------------------------------------------------------------------------------------------------- JSON


def tagged_values(path: Path, name: str, bad: BadRecords) -> Iterator[tuple[int, Any]]:
    """The records of a file of JSON lines with their lines, or of a JSON list with their numbers."""
    fix = "write JSON lines, an object a line; CoNLL columns are read from .txt, .conll and other endings"
    return json_values(path, name, bad, _records_in, fix)


def _records_in(value: Any) -> list[Any] | None:
    """The records that a value lists; None where it is a record itself."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), str):
        return None
    found = records_of(value)
    if found is None or found == [value]:
        return None
    return found if all(part is None or isinstance(part, list | dict) for part in found) else None


@dataclass(frozen=True)
class _Known:
    """A plain record, its place, and which field is what."""

    entry: Entry
    fields: TagFields
    source: str
    bad: BadRecords

    @property
    def record(self) -> Mapping[str, Any]:
        """Its fields."""
        return self.entry.plain.record

    @property
    def line(self) -> int:
        """Its line, or its number."""
        return self.entry.line

    @property
    def file(self) -> str:
        """The file that it is in."""
        return self.entry.plain.file or self.source

    def name(self, role: Role) -> str:
        """The field of a role."""
        return self.fields.name(role, self.record)

    def has(self, role: Role) -> bool:
        """Whether the record has such a field."""
        return self.name(role) in self.record

    def find(self, role: Role, kind: type, wanted: str) -> Any:
        """The value, or None after a report where it is missing or of another kind."""
        field = self.name(role)
        if field not in self.record:
            known = nearest(field, map(str, self.record)) if self.record else "the record has no fields"
            fix = f"name the right one with --{role}-field ({known})"
            self.reject("the field is missing", field, fix)
            return None
        value = self.record[field]
        if not isinstance(value, kind):
            self.reject(f"the field holds {kind_of(value)}, where {wanted} is wanted", field)
            return None
        return value

    def reject(self, reason: str, field: str | None = None, fix: str | None = None) -> None:
        """Report the record."""
        line = None if self.entry.plain.file else self.line
        self.bad.add(reason, file=self.file, line=line, field=field, fix=fix)

    def count_unread(self, left: LeftOut, own_texts: Collection[str]) -> None:
        """Count the fields of the record and of its spans that nothing reads.

        Args:
            own_texts: the keys under which spans repeat their text, which is compared.
        """
        if not self.fields.has_words(self.record):
            spans = self.record.get(self.name("spans"))
            if is_knowledge_base(self.record):
                own_texts = {*own_texts, "id", "text"}  # which `read_document` compares
            own = unread_keys(spans, own_texts) if isinstance(spans, list) else []
            # Spans that a reader of a tool's file made have an id, which the file may not have.
            own = own if self.entry.plain.unread is None else [key for key in own if key != "id"]
            left.fields.update(f"{self.name('spans')}[].{key}" for key in own)
        if self.entry.plain.unread is not None:
            left.fields.update(self.entry.plain.unread)
            return
        read = {self.fields.id, self.fields.group, self.name("text")}
        if self.fields.has_words(self.record):
            read |= {self.name("tokens"), self.name("tags")}
            read -= {self.name("text")}
        else:
            read |= {self.name("spans"), *(("passages", "entities") if is_knowledge_base(self.record) else ())}
        if self.record.get(VERDICT) == "accept":
            read.add(VERDICT)
        left.see_fields(map(str, self.record), {name for name in read if name})

    @property
    def id(self) -> str:
        """The record's own id, or its place."""
        value = self.record.get(self.fields.id) if self.fields.id else None
        if value is not None:
            return str(value)
        return self.entry.plain.file or f"{self.source}:{self.line}"

    @property
    def group(self) -> str:
        """Its group, or its id."""
        value = self.record.get(self.fields.group) if self.fields.group else None
        return (self.entry.plain.group or self.id) if value is None else str(value)


def _tagged_words(known: _Known) -> _Sentence | None:
    words = known.find("tokens", list, "a list of words")
    tags = None if words is None else known.find("tags", list, "a list of tags")
    if words is None or tags is None:
        return None
    tokens_field, tags_field = known.name("tokens"), known.name("tags")
    if not words:
        known.reject("the sentence has no words", tokens_field)
    elif len(words) != len(tags):
        known.reject(f"there are {len(words)} words and {len(tags)} tags", tags_field)
    elif empty := [place for place, word in enumerate(words) if not isinstance(word, str) or not word.strip()]:
        known.reject(f"word {empty[0] + 1} is empty or no text", tokens_field)
    elif other := [tag for tag in tags if not isinstance(tag, str)]:
        fix = "write the tags' names, such as B-Disease; numbers mean nothing without a list of names"
        known.reject(f"the tags hold {kind_of(other[0])}, where names are wanted", tags_field, fix)
    else:
        return _Sentence(words, tags, [known.line] * len(words), known.id, known.group)
    return None


@dataclass
class _Claims:
    """What spans say of their own text, over all records of a file: which fit, and which do not.

    Attributes:
        keys: under which spans repeat their text.
        contradicted: each record with the place of its first wrong span, the key, and its wrong claims.
    """

    keys: Collection[str] = ()
    fitting: list[Claim] = field(default_factory=list)
    contradicted: list[tuple[_Known, str, str, list[Claim]]] = field(default_factory=list)

    def reject(self) -> None:
        """Report each record with a span that contradicts itself, with the cause that explains most of them."""
        claims = [claim for *_, own in self.contradicted for claim in own]
        causes, explained = likely_causes(claims, self.fitting)
        for known, place, key, own in self.contradicted:
            reason, fix = contradiction(own[0], causes, explained, len(claims))
            if key not in NAMED:
                fix += f"; or give '{key}' another place than the span, if it is not the span's own text"
            known.reject(reason, place, fix)


def _spans_in(known: _Known) -> Iterator[tuple[str, Any]]:
    """The spans of a record, each after its text."""
    text, spans = known.record.get(known.name("text")), known.record.get(known.name("spans"))
    if isinstance(text, str) and isinstance(spans, list) and not known.fields.has_words(known.record):
        yield from ((text, span) for span in spans)


def _spanned_text(known: _Known, claims: _Claims) -> TaggedText | None:
    text = known.find("text", str, "text")
    raw = None if text is None else known.find("spans", list, "a list of spans")
    if text is None or raw is None:
        return None
    field = known.name("spans")
    if not text.strip():
        known.reject("the text is empty", known.name("text"))
        return None
    spans: list[Span] = []
    wrong: list[tuple[int, str, Claim]] = []
    joined = 0
    for place, value in enumerate(raw):
        try:
            said = list(claims_of(value, claims.keys, text))
            untrue = [(place, *one) for one in said if not holds(value, one[1], known.fields.offsets)]
            if untrue:
                wrong.append(untrue[0])
                continue
            span, parts = read_span(value, text, known.fields.offsets)
        except ValueError as error:
            fix = f"{COUNTED}; not bytes, not UTF-16 units (--span-offsets names another way)"
            known.reject(str(error), f"{field}[{place}]", fix)
            return None
        claims.fitting += [claim for _, claim in said[:1]]
        spans.append(span)
        joined += parts > 1
    if wrong:
        place, key, _ = wrong[0]
        claims.contradicted.append((known, f"{field}[{place}]", key, [claim for *_, claim in wrong]))
        return None
    kept, overlapping = keep_longest(spans)
    where = known.group, known.file, known.line
    return TaggedText(known.id, text, None, kept, *where, overlapping, joined)


def _text_of_passages(known: _Known) -> TaggedText | None:
    try:
        document = read_document(known.record)
    except KnowledgeBaseError as error:
        known.reject(str(error), error.field, error.fix)
        return None
    spans, overlapping = flat_spans(document)
    joined = sum(entity.parts > 1 for entity in document.entities)
    place = known.group, known.file, known.line
    return TaggedText(known.id, document.text, None, spans, *place, overlapping, joined)
