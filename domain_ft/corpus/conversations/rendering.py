"""Conversations as the text that a model reads, and which characters of it are learned.

The text is what the model's own chat template makes, or `PLAIN_TEMPLATE` for a model that has none. What is learned is
found by rendering prefixes: the text up to an answer, with the generation prompt, is what the model is given; what the
template adds to it when the answer follows is what the model has to say, up to the token that ends its turn. So no
template has to mark its answers, and what is learned is what is asked for when the model generates.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any

from domain_ft.corpus.conversations.beside import REASONING
from domain_ft.corpus.conversations.conversation import Conversation, Turn
from domain_ft.errors import CorpusError, RecordError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PLAIN_TEMPLATE = (
    "{% if tools %}{{ raise_exception('the plain chat template has no tools') }}{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'tool' or message.tool_calls %}"
    "{{ raise_exception('the plain chat template has no turns of tools') }}"
    "{% endif %}"
    "{{ '### ' }}{{ message.role | capitalize }}{{ ':\\n' }}{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{{ '\\n\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)
"""For models with no chat template: a heading before each turn, eos after each answer.

    ### System:
    ...

    ### User:
    ...

    ### Assistant:
    ...<eos>

Where the tokenizer puts a bos before a text, it comes before the first heading.
"""

_PROBE = "PROBE"
_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")


@dataclass(frozen=True)
class Rendered:
    """A conversation as a model reads it.

    Attributes:
        text: with all special tokens that the template writes.
        spans: the characters (first, end) that are learned, in order: each answer with the token that ends its turn.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


class ChatTemplate:
    """A chat template with the tokenizer that it is for.

    Attributes:
        text: the template, in Jinja. Saved as the `chat_template` of the tokenizer it gives this same object again.
        end: the special token that ends a turn of the assistant in it; eos where it writes none; empty without either.
        stop_tokens: the ids at which generation stops: `end` and eos.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, text: str | Mapping[str, str], today: date | None = None
    ) -> None:
        """Of `text`, or of several templates by name; `today` as for `of`."""
        self._tokenizer, self._template, self._today = tokenizer, text, today
        self.text: str = text if isinstance(text, str) else text.get("default", next(iter(text.values())))
        specials = sorted(
            (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special), key=len, reverse=True
        )
        self._special = re.compile("|".join(map(re.escape, specials)) or r"(?!)")
        texts = [text] if isinstance(text, str) else list(text.values())
        self._reasoning = tuple(
            name for name in REASONING if any(re.search(rf"(?:\.|['\"]){name}\b", one) for one in texts)
        )
        self.end = self._end_of_turn()
        ids = [tokenizer.convert_tokens_to_ids(token) for token in (self.end, tokenizer.eos_token) if token]
        self.stop_tokens: tuple[int, ...] = tuple(dict.fromkeys(ids))

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, today: date | None = None) -> ChatTemplate:
        """The tokenizer's own template, else the plain one.

        Args:
            today: the day that a template writes which writes today's; None for the day on which it is rendered.
        """
        if tokenizer.chat_template:
            return cls(tokenizer, tokenizer.chat_template, today)
        first = tokenizer("a")["input_ids"][:1]
        opens = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
        return cls(tokenizer, ("{{ bos_token }}" if opens else "") + PLAIN_TEMPLATE)

    @property
    def is_plain(self) -> bool:
        """Whether it is ours."""
        return self.text.endswith(PLAIN_TEMPLATE)

    @property
    def writes_date(self) -> bool:
        """Whether its texts depend on the day."""
        return bool(_TODAY.search(self.text))

    def render(self, conversation: Conversation) -> tuple[Rendered, ...]:
        """The conversation as text: one, or several where the template tells past turns otherwise than present ones.

        Such as those that leave the thoughts out of past answers: an answer is learned in the text that it ends, where
        it stands as the model has to say it, and later ones in texts of their own. Each answer is learned once.

        Raises:
            RecordError: the template refuses a turn, leaves one out or changes an answer; a content holds the text of a
                special token. It names the place of the conversation.
        """
        turns, tools = conversation.turns, conversation.tools
        self._check_contents(turns, tools, conversation.place)
        whole = self._apply(turns, tools, conversation.place)
        self._check_heard(turns, tools, whole, conversation.place)
        texts: list[tuple[str, list[tuple[int, int]]]] = [(whole, [])]
        for number in reversed(range(len(turns))):
            if turns[number].role == "assistant" and turns[number].trained:
                text, span = self._answer(turns[: number + 1], tools, conversation.place)
                if not texts[-1][0].startswith(text):
                    texts.append((text, []))
                texts[-1][1].append(span)
        return tuple(Rendered(text, tuple(reversed(spans))) for text, spans in reversed(texts) if spans)

    def prompt(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = (), *, place: str = "") -> str:
        """The text of `turns` that the assistant's next turn follows.

        Args:
            place: where the turns stand, for messages.

        Raises:
            RecordError: as `render`.
        """
        self._check_contents(turns, tools, place)
        text = self._apply(turns, tools, place, answer=True)
        self._check_heard(turns, tools, text, place)
        return text

    # --- one answer ---

    def _answer(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], place: str
    ) -> tuple[str, tuple[int, int]]:
        """The text up to the end of the last turn, and which characters of it the assistant has to say."""
        turn, number = turns[-1], len(turns)
        told = self._apply(turns, tools, place)
        given = self._apply(turns[:-1], tools, place, answer=True) if number > 1 else ""
        start = _common(given, told)
        content = _find_answer(told, turn, start)
        if content is None and number > 1:
            # A generation prompt may say the beginning of the answer already, such as the opening of its thoughts.
            content = _find_answer(told, turn, _common(self._apply(turns[:-1], tools, place), told))
        if content is None:
            raise RecordError(
                "the model's chat template leaves out or changes a part of this answer",
                where=_where(place, number, turn),
                fix="write the answer as the template has it, leave it out of training (weight 0), "
                "or take a model with another template",
            )
        if told[:start] != given:  # what they have in common may reach into the answer
            start = min(start, content[0])
        if turn.reasoning and _find(told, turn.reasoning, start) is None:
            raise self._leaves_out("the reasoning of this answer", place, number, turn)
        after = told[content[1] :]
        for call in turn.tool_calls:
            if call["function"]["name"] not in told[start:]:
                raise self._leaves_out("this call of a tool", place, number, turn)
        ends = list(self._special.finditer(after))
        if turn.tool_calls:  # a call may be written with special tokens: the turn's end is the last
            ends = [match for match in ends if match[0] == self.end][-1:] or ends[-1:]
        if ends:
            end = content[1] + ends[0].end()
            return told[:end], (start, end)
        text = told[: content[1]] if turn.content.strip() and not turn.tool_calls else told.rstrip()
        text += self._tokenizer.eos_token or ""
        return text, (start, len(text))

    def _end_of_turn(self) -> str:
        """The first special token after an answer."""
        try:
            text = self._call([Turn("user", "a"), Turn("assistant", _PROBE)], ())
        except Exception:  # whatever a template does with so little: it is told of its first real conversation
            text = ""
        _, _, after = text.rpartition(_PROBE)
        found = self._special.search(after)
        return found[0] if found and _PROBE in text else self._tokenizer.eos_token or ""

    # --- what can be said in this template ---

    def _check_contents(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], place: str) -> None:
        """Refuse the text of a special token inside what somebody says: it would be read as the token."""
        for number, turn in enumerate(turns, 1):
            said = (
                turn.content
                + (turn.reasoning or "")
                + (json.dumps(turn.tool_calls, ensure_ascii=False) if turn.tool_calls else "")
            )
            found = self._special.search(said)
            if found:
                reason = f"the text holds '{found[0]}', which is a special token of this model and would be read as one"
                fix = "write it otherwise, such as with a space in it"
                raise RecordError(reason, where=_where(place, number, turn), fix=fix)
        found = self._special.search(json.dumps(tools, ensure_ascii=False)) if tools else None
        if found:
            reason = f"the tools hold '{found[0]}', which is a special token of this model and would be read as one"
            raise RecordError(reason, where=place, fix="write it otherwise, such as with a space in it")

    def _check_heard(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], text: str, place: str) -> None:
        """Refuse what the template leaves out without a word: the model would be taught to answer what it cannot see.

        Args:
            text: the turns, rendered with or without a generation prompt.
        """
        for number, turn in enumerate(turns):
            if turn.reasoning and not self._reasoning:
                reason = "the model's chat template does not know reasoning that stands in a field of its own"
                fix = "write it into the answer, such as between <think> and </think>, take the field out, or take a "
                fix += "model whose template knows reasoning_content"
                raise RecordError(reason, where=_where(place, number + 1, turn), fix=fix)
            if turn.role == "assistant" or turn.content.strip() in text:
                continue
            # It may be written otherwise, such as in JSON. Then another content gives another text.
            other = [*turns[:number], replace(turn, content=f"{turn.content} {_PROBE}"), *turns[number + 1 :]]
            if self._apply(other, tools, place) == self._apply(turns, tools, place):
                raise self._leaves_out(f"the {turn.role} turn", place, number + 1, turn)
        if tools and self._apply(turns, (), place) == self._apply(turns, tools, place):
            fix = "leave the tools out, or take a model whose template knows tools"
            raise RecordError("the model's chat template leaves out the tools", where=place, fix=fix)

    def _leaves_out(self, what: str, place: str, number: int, turn: Turn) -> RecordError:
        fix = "leave such turns out, put what they say into the user's turn, or take a model whose template has them"
        return RecordError(f"the model's chat template leaves out {what}", where=_where(place, number, turn), fix=fix)

    def _apply(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], place: str, *, answer: bool = False
    ) -> str:
        """The text of `turns`; with `answer` the assistant's next turn is begun."""
        try:
            return self._call(turns, tools, answer)
        except Exception as error:  # a template may raise whatever Python does
            raise self._refusal(turns, tools, place, answer, error) from error

    def _call(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], answer: bool = False) -> str:
        template = self._template
        if not isinstance(template, str):
            template = template.get("tool_use", self.text) if tools else self.text
        text: str = self._tokenizer.apply_chat_template(
            [self._message(turn) for turn in turns],
            tools=[dict(tool) for tool in tools] or None,
            chat_template=_dated(template, self._today) if self._today else template,
            add_generation_prompt=answer,
            tokenize=False,
        )
        return text

    def _message(self, turn: Turn) -> dict[str, Any]:
        """The turn with its reasoning under the names that the template reads."""
        message = turn.message()
        reasoning = message.pop(REASONING[0], None)
        return message if reasoning is None else message | dict.fromkeys(self._reasoning, reasoning)

    def _refusal(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], place: str, answer: bool, error: Exception
    ) -> CorpusError:
        """What a template that raised `error` refuses: found by leaving out what many refuse."""
        systems = [number for number, turn in enumerate(turns) if turn.role == "system"]
        if systems and self._takes([turn for turn in turns if turn.role != "system"], tools, answer):
            return RecordError(
                f"the model's chat template refuses the system turn ({error})",
                where=_where(place, systems[0] + 1, turns[systems[0]]),
                fix="put what it says at the beginning of the user's first turn, or take a model whose template has "
                "system turns",
            )
        uses_tools = bool(tools) or any(turn.role == "tool" or turn.tool_calls for turn in turns)
        if uses_tools:
            fix = "take a model whose chat template knows tools, or leave such conversations out"
            return RecordError(f"the model's chat template refuses tools ({error})", where=place, fix=fix)
        fix = "many templates want the user and the assistant to take turns, the user first"
        return RecordError(f"the model's chat template refuses the conversation ({error})", where=place, fix=fix)

    def _takes(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], answer: bool) -> bool:
        try:
            self._call(turns, tools, answer)
        except Exception:
            return False
        return True


@functools.lru_cache
def _dated(template: str, today: date) -> str:
    """The template with `today` written out where it asks for today's date.

    It does so by a function that transformers gives it, and takes from nobody else.
    """
    return _TODAY.sub(lambda asked: json.dumps(today.strftime(asked[2]), ensure_ascii=False), template)


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with that are the same."""
    if other.startswith(one):
        return len(one)
    return next(place for place, (a, b) in enumerate(zip(one, f"{other}\0", strict=False)) if a != b)


def _find(text: str, content: str, start: int) -> tuple[int, int] | None:
    """Where `content` stands in `text` from `start` on, white space apart; None where it does not."""
    stripped = content.strip()
    if not stripped:
        return start, start
    place = text.find(stripped, start)
    if place >= 0:
        return place, place + len(stripped)
    places = [index for index in range(start, len(text)) if not text[index].isspace()]
    bare = "".join(stripped.split())
    found = "".join(text[index] for index in places).find(bare)
    return (places[found], places[found + len(bare) - 1] + 1) if found >= 0 else None


def _find_answer(text: str, turn: Turn, start: int) -> tuple[int, int] | None:
    """Where a turn's content stands in `text` from `start` on, after its reasoning where it has some."""
    thought = _find(text, turn.reasoning, start) if turn.reasoning else None
    found = None if thought is None else _find(text, turn.content, thought[1])
    return found or _find(text, turn.content, start)


def _where(place: str, number: int, turn: Turn) -> str:
    return f"{place}, turn {number} ({turn.role})".removeprefix(", ")
