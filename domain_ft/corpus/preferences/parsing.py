"""From a record in any format to examples, with everything that is wrong with it.

What surrounds the answers (prompt, system turn, history, context, tools, id and group) is read as in conversations.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from domain_ft.corpus.conversations.conversation import Conversation, Turn
from domain_ft.corpus.conversations.faults import Fault, Faults
from domain_ft.corpus.conversations.formats import Format
from domain_ft.corpus.conversations.formats import parse as parse_conversation
from domain_ft.corpus.conversations.formats import recognise as recognise_conversation
from domain_ft.corpus.conversations.media import refuse_placeholders
from domain_ft.corpus.conversations.messages import read_turns
from domain_ft.corpus.conversations.template_markers import refuse_rendered
from domain_ft.corpus.conversations.training_marks import find_exclusion, is_blank
from domain_ft.corpus.preferences.examples import Example, PreferenceExample, RatedExample
from domain_ft.corpus.preferences.fields import (
    PreferenceChoice,
    PreferenceFormat,
    as_list,
    label_in,
    label_of,
    without_label,
)
from domain_ft.corpus.preferences.judgements import Judgement, Placed, read_judgement
from domain_ft.corpus.preferences.transcripts import is_transcript, messages_of
from domain_ft.corpus.readers.base import RawRecord, kind_of
from domain_ft.quoting import shown

_MESSAGES = "messages"  # the field of the prompt's messages in the record that is read as a conversation

Turns = tuple[Turn, ...]


class ParsedPreferences(NamedTuple):
    """The result of parsing a record.

    Attributes:
        examples: one of a pair or a rated answer, and several of a ranking; none if the record cannot be used.
        faults: everything wrong with the record.
        unread: fields that are not read; those of messages as `messages[].tag`.
        left_out: why the record is left out although nothing is wrong with it: a tie, or a mark that excludes it.
        ties: the number of pairs that are not made because their answers are equally good.
    """

    examples: tuple[Example, ...]
    faults: tuple[Fault, ...]
    unread: tuple[str, ...] = ()
    left_out: Fault | None = None
    ties: int = 0


def parse(record: RawRecord, file: str, format: PreferenceFormat, choice: PreferenceChoice) -> ParsedPreferences:
    """The examples of a record, and everything that is wrong with it.

    Args:
        record: unchanged, as in the file.
        file: the file's name.
        format: of the record.
        choice: the fields that the user named.
    """
    fields = {str(name): value for name, value in record.fields.items() if value is not None}
    if format == "rated":
        return _rated(record._replace(fields=fields), file, choice)
    if format == "transcript" or (format == "pairs" and choice.format == "auto"):
        fields = {name: messages_of(value) if is_transcript(value) else value for name, value in fields.items()}
    faults = Faults()
    judgement = read_judgement(fields, format, choice, faults)
    rest = {name: value for name, value in fields.items() if name not in judgement.read}
    excluded, marks = _exclusion(rest, choice, faults)
    if excluded is not None:
        return ParsedPreferences((), tuple(faults.found), left_out=excluded)
    if faults.fatal:
        return ParsedPreferences((), tuple(faults.found))
    reading = _Pairs(record._replace(fields=rest), file, choice, judgement, faults)
    examples = reading.examples()
    unread = tuple(name for name in reading.unread if name not in marks)
    left_out = judgement.tie if not faults.fatal else None
    if faults.fatal or left_out is not None:
        return ParsedPreferences((), tuple(faults.found), unread, left_out, judgement.ties)
    return ParsedPreferences(tuple(examples), tuple(faults.found), unread, ties=judgement.ties)


def _exclusion(
    fields: Mapping[str, Any], choice: PreferenceChoice, faults: Faults
) -> tuple[Fault | None, frozenset[str]]:
    """Why the record is marked as excluded from training, if it is, and the fields with marks."""
    read: set[str] = set()
    named = (choice.id_field, choice.group_field, choice.prompt_field)
    marks = {name: value for name, value in fields.items() if name not in named}
    found = find_exclusion(marks, of_prompts=False, answer_is_text=False, read=read, faults=faults)
    return found, frozenset(read)


def _rated(record: RawRecord, file: str, choice: PreferenceChoice) -> ParsedPreferences:
    """A conversation whose last answer is good or bad."""
    faults = Faults()
    label_field = label_in(record.fields)
    if label_field is None:
        faults.error("missing-field", "label", "there is no label that says whether the completion is good")
        return ParsedPreferences((), tuple(faults.found))
    desirable = label_of(record.fields[label_field])
    if desirable is None:
        value = record.fields[label_field]
        given = f"'{shown(str(value))}'" if isinstance(value, str | int | float) else kind_of(value)
        reason = f"the label is {given}, where true or false (or 1 or 0) is expected"
        faults.error("bad-label", label_field, f"{reason}: true for a good completion")
    plain = without_label(record.fields)
    format = recognise_conversation(plain, choice.of_conversations) or "prompt"
    parsed = parse_conversation(record._replace(fields=plain), file, format, choice.of_conversations)
    found = (*faults.found, *parsed.faults)
    conversation = parsed.conversation
    if conversation is None or desirable is None:
        return ParsedPreferences((), found, parsed.unread, parsed.left_out)
    turns = conversation.turns
    begin = max(number for number, turn in enumerate(turns) if turn.role in ("user", "system")) + 1 if turns else 0
    prompt, completion = _untrained(turns[:begin]), _trained(turns[begin:])
    checked = Faults()
    _check_prompt(prompt, "prompt", checked)
    if not completion:
        checked.error("empty-answer", None, "there is no completion: the last turn is the user's")
    if checked.fatal:
        return ParsedPreferences((), (*found, *checked.found), parsed.unread)
    source = replace(conversation, turns=())
    example = RatedExample(conversation.id, prompt, completion, desirable, source)
    return ParsedPreferences((example,), found, parsed.unread)


@dataclass
class _Pairs:
    """Makes the pairs of one record.

    Attributes:
        record: without the fields of the judgement.
        unread: filled by `examples`.
    """

    record: RawRecord
    file: str
    choice: PreferenceChoice
    judgement: Judgement
    faults: Faults
    unread: tuple[str, ...] = ()

    def examples(self) -> list[PreferenceExample]:
        """The pairs. Adds to `faults`."""
        answers = [self._turns(answer) for answer in self.judgement.answers]
        if self.faults.fatal:
            return []
        whole = [turns[0].role != "assistant" for turns in answers]
        if any(whole) and not all(whole):
            odd = self.judgement.answers[whole.index(False)].place
            reason = "it is an answer alone, while another answer of the record is a whole conversation"
            self.faults.error("other-prompt", odd, f"{reason}: write both in the same form")
            return []
        shared = _shared(answers) if all(whole) else 0
        if all(whole) and not shared:
            self._differ(self.judgement.answers[1].place)
            return []
        conversation = self._conversation(answers[0][:shared] if shared else None)
        if conversation is None:
            return []
        prompt = _untrained(conversation.turns)
        replies = [_trained(turns[shared:]) for turns in answers]
        self._check(prompt, replies)
        if self.faults.fatal:
            return []
        return self._pairs(prompt, replies, conversation)

    def _turns(self, answer: Placed) -> Turns:
        """The turns of an answer, which may be a text, a message, a list of messages or such a list as JSON text."""
        value = answer.value
        messages = as_list(value)
        if isinstance(value, Mapping):
            messages = [value]
        if messages is None or not all(isinstance(one, Mapping) for one in messages):
            text = self.faults.text(value, answer.place)
            if text is not None and not text.strip():
                self.faults.error("empty-answer", answer.place, "the answer is empty")
            return (Turn("assistant", (text or "").lstrip(" ")),)
        turns = tuple(turn for _, turn in read_turns(messages, answer.place, self.faults) if turn is not None)
        if not turns or turns[-1].role != "assistant":
            self.faults.error("empty-answer", answer.place, "there is no answer: the last turn is not the assistant's")
        return _untrained(turns)

    def _conversation(self, shared: Turns | None) -> Conversation | None:
        """The prompt as a conversation, with what surrounds it; None, with faults added, if it cannot be used.

        Args:
            shared: the turns that all answers begin with; None if the answers are not whole conversations.
        """
        fields, choice = dict(self.record.fields), self.choice.of_conversations
        explicit = self.choice.prompt_field or ("prompt" if "prompt" in fields else None)
        if shared is not None:
            if not self._agrees(fields.get(explicit) if explicit else None, shared, explicit):
                return None
            fields = {name: value for name, value in fields.items() if name not in (explicit, _MESSAGES)}
            fields[_MESSAGES] = self.judgement.answers[0].value
            fields[_MESSAGES] = (as_list(fields[_MESSAGES]) or [])[: len(shared)]
            format: Format | None = "chat"
            choice = replace(choice, prompt_field=None)
            place = self.judgement.answers[0].place
        else:
            place = explicit or "prompt"
            messages = as_list(fields[explicit]) if explicit in fields else None
            if explicit and messages is not None:
                fields = {name: value for name, value in fields.items() if name not in (explicit, _MESSAGES)}
                fields[_MESSAGES], choice = messages, replace(choice, prompt_field=None)
            is_text = explicit == "prompt" and messages is None
            format = "prompt" if is_text else recognise_conversation(fields, choice, answered=False)
        if format is None:
            reason = "there is no prompt: the record has no field with a usual name for it"
            self.faults.error("no-prompt", None, f"{reason}; name it: --prompt-field F")
            return None
        record = self.record._replace(fields=fields)
        parsed = parse_conversation(record, self.file, format, choice, answered=False)
        self.faults.found += [_placed(fault, place) for fault in parsed.faults]
        given = {name for name in (_MESSAGES,) if name in self.record.fields and shared is not None}
        self.unread = (*parsed.unread, *sorted(given), *sorted(self.faults.unread))
        return parsed.conversation

    def _agrees(self, prompt: Any, shared: Turns, explicit: str | None) -> bool:
        """Whether a prompt in a field of its own is what the answers begin with."""
        if is_blank(prompt):
            return True
        messages = as_list(prompt)
        asked = [turn.content for turn in shared if turn.role == "user"]
        if messages is None:
            texts = [prompt] if isinstance(prompt, str) else []
        else:
            texts = [turn.content for _, turn in read_turns(messages, explicit or "prompt", Faults()) if turn]
        last = texts[-1].strip() if texts else ""
        if asked and (asked[-1].strip() == last or last.endswith(asked[-1].strip())):
            return True
        reason = f"the conversation does not begin with the text of '{explicit}'"
        self.faults.error("other-prompt", self.judgement.answers[0].place, f"{reason}: remove one of the two prompts")
        return False

    def _check(self, prompt: Turns, replies: Sequence[Turns]) -> None:
        """Report replies that do not answer the prompt."""
        places = [answer.place for answer in self.judgement.answers]
        for place, reply in zip(places, replies, strict=True):
            if any(turn.role in ("user", "system") for turn in reply):
                self._differ(place)
                return
            refuse_rendered(reply, self.faults)
            refuse_placeholders(reply, {}, self.faults)
        _check_prompt(prompt, places[0], self.faults)

    def _differ(self, place: str) -> None:
        reason = "the answers of this record have different prompts: a turn of the user (or the system) differs"
        self.faults.error("other-prompt", place, f"{reason}; both answers must follow the same turns")

    def _pairs(self, prompt: Turns, replies: Sequence[Turns], conversation: Conversation) -> list[PreferenceExample]:
        source = replace(conversation, turns=())
        examples = []
        several = len(replies) > 2
        places = [answer.place for answer in self.judgement.answers]
        for better, worse, margin in self.judgement.orders:
            if _same(replies[better], replies[worse]):
                reason = f"the answer is the same as that in {places[better]}: nothing can be learned from this pair"
                report = self.faults.warn if several else self.faults.error
                report("equal-answers", places[worse], reason)
                continue
            name = f"{conversation.id}#{better + 1}-{worse + 1}" if several else conversation.id
            examples.append(PreferenceExample(name, prompt, replies[better], replies[worse], margin, source))
        if several and self.judgement.orders and not examples:
            self.faults.error("equal-answers", places[0], "all answers with different scores have the same text")
        return examples


def _check_prompt(prompt: Turns, place: str, faults: Faults) -> None:
    """Report a prompt without a user's turn, or one that ends with an answer. `place` is that of the first answer."""
    if not any(turn.role == "user" for turn in prompt):
        faults.error("no-prompt", place, "there is no prompt: no user's turn comes before the answer")
    elif prompt[-1].role == "assistant":
        reason = "the prompt ends with an answer: remove it, or write it into the chosen and the rejected answer"
        faults.error("other-prompt", place, reason)


def _shared(answers: Sequence[Turns]) -> int:
    """The number of turns that all answers begin with, apart from the last turn of each."""
    shared = 0
    for turns in itertools.islice(zip(*answers, strict=False), min(map(len, answers)) - 1):
        if any(_plain(turn) != _plain(turns[0]) for turn in turns):
            break
        shared += 1
    return shared


def _same(one: Turns, other: Turns) -> bool:
    """Whether two answers are the same, apart from white space around their turns."""
    return list(map(_plain, one)) == list(map(_plain, other))


def _plain(turn: Turn) -> Turn:
    return replace(turn, content=turn.content.strip(), trained=False)


def _untrained(turns: Sequence[Turn]) -> Turns:
    return tuple(replace(turn, trained=False) for turn in turns)


def _trained(turns: Sequence[Turn]) -> Turns:
    return tuple(replace(turn, trained=turn.role == "assistant") for turn in turns)


def _placed(fault: Fault, place: str) -> Fault:
    """A fault of the prompt's messages, at the place where they are in the record."""
    if fault.field is None or not fault.field.startswith(_MESSAGES) or place == _MESSAGES:
        return fault
    return replace(fault, field=place + fault.field.removeprefix(_MESSAGES))
