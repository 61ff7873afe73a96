"""Renders conversations to text, and finds the characters to train on.

The model's chat template renders the text, or `PLAIN_TEMPLATE` if the model has none. The characters to train on are
found by rendering prefixes. The turns before an answer, rendered with the generation prompt, are the model's input.
What the template adds for the answer, including the token that ends the turn, is the target. So a template does not
have to mark its answers, and the target is exactly what the model has to generate.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any

from domain_ft.corpus.conversations.conversation import Conversation, Turn
from domain_ft.corpus.conversations.extra_fields import REASONING
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
"""For models without a chat template: a heading before each turn, and eos after each answer.

    ### System:
    ...

    ### User:
    ...

    ### Assistant:
    ...<eos>

If the tokenizer puts a bos before a text, the bos precedes the first heading.
"""

_PROBE = "PROBE"
_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation.

    Attributes:
        text: including the template's special tokens.
        spans: (start, end) in characters of each answer to train on, in order, with the token that ends its turn.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


class ChatTemplate:
    """A chat template with its tokenizer.

    Attributes:
        text: the Jinja template; of several, the one named `default`, or else the first.
        end: the special token that ends an assistant turn; eos if the template writes none; empty without either.
        stop_tokens: the ids at which generation stops: `end` and eos.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, text: str | Mapping[str, str], today: date | None = None
    ) -> None:
        """Use the Jinja template `text`, or several by name. See `of` for `today`."""
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
        """The tokenizer's template, or the plain one if it has none.

        Args:
            today: the date for templates that write the current date; None for the date of rendering.
        """
        if tokenizer.chat_template:
            return cls(tokenizer, tokenizer.chat_template, today)
        first = tokenizer("a")["input_ids"][:1]
        opens = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
        return cls(tokenizer, ("{{ bos_token }}" if opens else "") + PLAIN_TEMPLATE)

    @property
    def is_plain(self) -> bool:
        """Whether this is `PLAIN_TEMPLATE`."""
        return self.text.endswith(PLAIN_TEMPLATE)

    @property
    def writes_date(self) -> bool:
        """Whether the template writes the current date."""
        return bool(_TODAY.search(self.text))

    def render(self, conversation: Conversation) -> tuple[Rendered, ...]:
        """The conversation as one text, or as several if the template renders past turns differently.

        Some templates remove the reasoning from past answers. Such an answer is trained on in a text of its own, which
        ends with the answer as the model has to generate it. Each answer is trained on once.

        Raises:
            RecordError: the template rejects or omits a turn or changes an answer, or a turn contains the text of a
                special token. The error has the file and line of the conversation.
        """
        turns, tools = conversation.turns, conversation.tools
        self._check_contents(turns, tools, conversation.place)
        whole = self._apply(turns, tools, conversation.place)
        self._check_complete(turns, tools, whole, conversation.place)
        texts: list[tuple[str, list[tuple[int, int]]]] = [(whole, [])]
        for number in reversed(range(len(turns))):
            if turns[number].role == "assistant" and turns[number].trained:
                text, span = self._answer(turns[: number + 1], tools, conversation.place)
                if not texts[-1][0].startswith(text):
                    texts.append((text, []))
                texts[-1][1].append(span)
        return tuple(Rendered(text, tuple(reversed(spans))) for text, spans in reversed(texts) if spans)

    def prompt(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = (), *, place: str = "") -> str:
        """The text of `turns` with the generation prompt.

        Args:
            place: file and line of the turns, for messages.

        Raises:
            RecordError: see `render`.
        """
        self._check_contents(turns, tools, place)
        text = self._apply(turns, tools, place, answer=True)
        self._check_complete(turns, tools, text, place)
        return text

    # --- one answer ---

    def _answer(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], place: str
    ) -> tuple[str, tuple[int, int]]:
        """The text up to the end of the last turn, and the (start, end) that the assistant has to generate."""
        turn, number = turns[-1], len(turns)
        full = self._apply(turns, tools, place)
        prompt = self._apply(turns[:-1], tools, place, answer=True) if number > 1 else ""
        start = _common_prefix(prompt, full)
        content = _find_answer(full, turn, start)
        if content is None and number > 1:
            # A generation prompt may contain the beginning of the answer, such as the tag that opens its reasoning.
            content = _find_answer(full, turn, _common_prefix(self._apply(turns[:-1], tools, place), full))
        if content is None:
            raise RecordError(
                "the model's chat template omits or changes a part of this answer",
                where=_where(place, number, turn),
                fix="write the answer as the template has it, exclude it from training (weight 0), "
                "or use a model with another template",
            )
        if full[:start] != prompt:  # the common prefix may extend into the answer
            start = min(start, content[0])
        if turn.reasoning and _find(full, turn.reasoning, start) is None:
            raise self._omits("the reasoning of this answer", place, number, turn)
        after = full[content[1] :]
        for call in turn.tool_calls:
            if call["function"]["name"] not in full[start:]:
                raise self._omits("this tool call", place, number, turn)
        ends = list(self._special.finditer(after))
        if turn.tool_calls:  # a call may contain special tokens: the last one ends the turn
            ends = [match for match in ends if match[0] == self.end][-1:] or ends[-1:]
        if ends:
            end = content[1] + ends[0].end()
            return full[:end], (start, end)
        text = full[: content[1]] if turn.content.strip() and not turn.tool_calls else full.rstrip()
        text += self._tokenizer.eos_token or ""
        return text, (start, len(text))

    def _end_of_turn(self) -> str:
        """The first special token after an answer; eos, or else an empty text, if the template writes none."""
        try:
            text = self._call([Turn("user", "a"), Turn("assistant", _PROBE)], ())
        except Exception:  # a template may raise anything here; errors on real conversations are reported
            text = ""
        _, _, after = text.rpartition(_PROBE)
        found = self._special.search(after)
        return found[0] if found and _PROBE in text else self._tokenizer.eos_token or ""

    # --- what the template can render ---

    def _check_contents(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], place: str) -> None:
        """Refuse turns that contain the text of a special token, which would be tokenised as that token."""
        for number, turn in enumerate(turns, 1):
            contents = (
                turn.content
                + (turn.reasoning or "")
                + (json.dumps(turn.tool_calls, ensure_ascii=False) if turn.tool_calls else "")
            )
            found = self._special.search(contents)
            if found:
                reason = f"the text contains '{found[0]}', which is a special token of this model"
                fix = "write it differently, for example with a space in it"
                raise RecordError(reason, where=_where(place, number, turn), fix=fix)
        found = self._special.search(json.dumps(tools, ensure_ascii=False)) if tools else None
        if found:
            reason = f"the tools contain '{found[0]}', which is a special token of this model"
            raise RecordError(reason, where=place, fix="write it differently, for example with a space in it")

    def _check_complete(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], text: str, place: str) -> None:
        """Refuse turns and tools that the template silently omits: the model would learn to answer what it cannot see.

        Args:
            text: the turns, rendered with or without a generation prompt.
        """
        for number, turn in enumerate(turns):
            if turn.reasoning and not self._reasoning:
                reason = "the model's chat template does not support reasoning in a separate field"
                fix = "write it into the answer, for example between <think> and </think>, remove the field, or use a "
                fix += "model whose template supports reasoning_content"
                raise RecordError(reason, where=_where(place, number + 1, turn), fix=fix)
            if turn.role == "assistant" or turn.content.strip() in text:
                continue
            # The content may be escaped, for example in JSON. Then other content changes the text.
            other = [*turns[:number], replace(turn, content=f"{turn.content} {_PROBE}"), *turns[number + 1 :]]
            if self._apply(other, tools, place) == self._apply(turns, tools, place):
                raise self._omits(f"the {turn.role} turn", place, number + 1, turn)
        if tools and self._apply(turns, (), place) == self._apply(turns, tools, place):
            fix = "leave the tools out, or use a model whose template supports tools"
            raise RecordError("the model's chat template omits the tools", where=place, fix=fix)

    def _omits(self, what: str, place: str, number: int, turn: Turn) -> RecordError:
        fix = "leave such turns out, move their text into the user's turn, or use a model whose template supports them"
        return RecordError(f"the model's chat template omits {what}", where=_where(place, number, turn), fix=fix)

    def _apply(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], place: str, *, answer: bool = False
    ) -> str:
        """The text of `turns`, with the generation prompt if `answer` is set."""
        try:
            return self._call(turns, tools, answer)
        except Exception as error:  # a template may raise any Python exception
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
        """The turn with its reasoning under all names that the template reads."""
        message = turn.message()
        reasoning = message.pop(REASONING[0], None)
        return message if reasoning is None else message | dict.fromkeys(self._reasoning, reasoning)

    def _refusal(
        self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], place: str, answer: bool, error: Exception
    ) -> CorpusError:
        """The error for a template that raised `error`; says if the system turn or tools are the cause."""
        systems = [number for number, turn in enumerate(turns) if turn.role == "system"]
        if systems and self._accepts([turn for turn in turns if turn.role != "system"], tools, answer):
            return RecordError(
                f"the model's chat template rejects the system turn ({error})",
                where=_where(place, systems[0] + 1, turns[systems[0]]),
                fix="move its text to the beginning of the user's first turn, or use a model whose template supports "
                "system turns",
            )
        uses_tools = bool(tools) or any(turn.role == "tool" or turn.tool_calls for turn in turns)
        if uses_tools:
            fix = "use a model whose chat template supports tools, or leave such conversations out"
            return RecordError(f"the model's chat template rejects tools ({error})", where=place, fix=fix)
        fix = "many templates require alternating turns of user and assistant, the user first"
        return RecordError(f"the model's chat template rejects the conversation ({error})", where=place, fix=fix)

    def _accepts(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]], answer: bool) -> bool:
        try:
            self._call(turns, tools, answer)
        except Exception:
            return False
        return True


@functools.lru_cache
def _dated(template: str, today: date) -> str:
    """The template with `today` in place of calls of `strftime_now`, which transformers defines for every template."""
    return _TODAY.sub(lambda call: json.dumps(today.strftime(call[2]), ensure_ascii=False), template)


def _common_prefix(one: str, other: str) -> int:
    """The length of the common prefix of two texts."""
    if other.startswith(one):
        return len(one)
    return next(place for place, (a, b) in enumerate(zip(one, f"{other}\0", strict=False)) if a != b)


def _find(text: str, content: str, start: int) -> tuple[int, int] | None:
    """(start, end) of `content` in `text` at or after `start`, ignoring white space; None if it is not there."""
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
    """(start, end) of a turn's content in `text` at or after `start`, and after its reasoning if that is found."""
    reasoning = _find(text, turn.reasoning, start) if turn.reasoning else None
    found = None if reasoning is None else _find(text, turn.content, reasoning[1])
    return found or _find(text, turn.content, start)


def _where(place: str, number: int, turn: Turn) -> str:
    return f"{place}, turn {number} ({turn.role})".removeprefix(", ")
