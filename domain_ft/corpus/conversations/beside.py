"""What a record or message holds beside what is said: context, options, earlier turns, reasoning.

A field that changes the meaning of an example is followed where it is well known, and refused by its name where it
cannot be. All other fields are counted as not read by whoever reads the record.
"""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from domain_ft.corpus.conversations.conversation import Turn
from domain_ft.corpus.conversations.faults import Fault, Faults
from domain_ft.corpus.conversations.marks import is_blank
from domain_ft.corpus.readers.base import join_names, kind_of
from domain_ft.corpus.readers.choosing import Holds, what_fields_hold
from domain_ft.json_files import loads
from domain_ft.quoting import listed

HISTORY = "history"
SYSTEM = ("system", "system_prompt", "system_message", "system_instruction")
CONTEXT = (
    *("context", "contexts", "passage", "passages", "article", "articles", "document", "documents", "background"),
    *("evidence", "reference_text", "paragraph", "paragraphs", "story", "retrieved_contexts", "retrieved_documents"),
)
"""What a question is about."""
QUESTIONS = ("question", "query", "prompt", "instruction")
"""What a record asks; of several, those that the format does not read are refused."""
OPTIONS = ("options", "choices")
REASONING = ("reasoning_content", "reasoning", "thinking")
_BODIES = ("text", "content", "contents", "body", "passage_text", "page_content")
"""What holds the text of a document."""
_SETTINGS = ("on", "off", "none", "low", "medium", "high", "true", "false", "enabled", "disabled")
"""What `reasoning` and `thinking` hold where they say how a model was asked to think, and not what it thought."""
_OPTION_COLUMNS = (
    ("opa", "opb", "opc", "opd", "ope"),
    ("option_a", "option_b", "option_c", "option_d", "option_e"),
    ("A", "B", "C", "D", "E"),
)
_REFUSED = {
    "functions": "this is the old way to declare tools: write them as tools",
    "chat_template_kwargs": "settings of the chat template cannot be given record by record: take the field out",
}


# --- What is refused --------------------------------------------------------------------------------------------------


def is_preference(fields: Mapping[str, Any]) -> bool:
    """Whether a record is a pair of answers, one of which is preferred."""
    return "chosen" in fields and "rejected" in fields


def preference_fault() -> Fault:
    """What is said of a pair of answers."""
    return Fault(
        "preference-pair",
        "chosen",
        "the record holds a chosen and a rejected answer: instruct does not learn preferences (a verb for preference "
        "tuning is coming); to learn the chosen answers alone, where they are texts, name the fields: "
        "--prompt-field F --answer-field chosen",
    )


def refuse_fields(fields: Mapping[str, Any], faults: Faults) -> None:
    """Note fields that change how a record is rendered and cannot be followed."""
    for name, reason in _REFUSED.items():
        if not is_blank(fields.get(name)):
            faults.error("unsupported-field", name, reason)


def refuse_option_columns(fields: Mapping[str, Any], prompts: Iterable[str], faults: Faults) -> None:
    """Note options of a question that have a column each: which of them are asked has to be said."""
    for names in _OPTION_COLUMNS:
        there = [name for name in names if not is_blank(fields.get(name))]
        if len(there) > 1:
            named = shlex.quote(join_names([*prompts, *there]))
            reason = f"the options in {listed(there)} are not read: name them, --prompt-field {named}"
            faults.error("unsupported-field", there[0], reason)


def refuse_unsaid(fields: Mapping[str, Any], turns: Iterable[Turn], read: set[str], faults: Faults) -> None:
    """Note earlier turns, context and options beside a list of messages that no message says."""
    said = "\n".join(turn.content for turn in turns)
    for name in (HISTORY, *CONTEXT, *OPTIONS):
        value = fields.get(name)
        if is_blank(value) or (name in CONTEXT and is_reference(name, value)):
            continue
        texts = (_context_texts(value) if name in CONTEXT else None) or list(_texts(value))
        if texts and all(text.strip() in said for text in texts):
            read.add(name)
        else:
            reason = f"{name} stands beside the messages and none of them says it: write it into a message"
            faults.error("unsupported-field", name, f"{reason}, or take the field out")
    for name in QUESTIONS:
        if isinstance(fields.get(name), str) and fields[name].strip() in said:
            read.add(name)


def refuse_questions(
    fields: Mapping[str, Any], asked: str, prompts: Sequence[str], read: set[str], faults: Faults
) -> None:
    """Note a second question or instruction that is not asked, such as `question` beside `instruction`.

    Args:
        fields: of the record.
        asked: all that is asked.
        prompts: the fields that the question is read from.
        read: takes the name of a field that says what is asked anyway.
        faults: told of the others.
    """
    for name in QUESTIONS:
        value = fields.get(name)
        if name in prompts or name in read or not isinstance(value, str) or is_blank(value):
            continue
        if value.strip() in asked:
            read.add(name)
        elif asked not in value:  # else it is the whole prompt as some template made it, which is listed as not read
            named = ",".join([name, *prompts])
            reason = f"the {name} beside {prompts[0]} is not read: name both, --prompt-field {named} --answer-field F"
            faults.error("unsupported-field", name, f"{reason}, or take the field out")


def reasoning_beside(fields: Mapping[str, Any], turns: Sequence[Turn], read: set[str], faults: Faults) -> list[Turn]:
    """The turns of a list of messages, with the reasoning that stands beside the list.

    It belongs to the answer where there is one alone. With several answers it is refused, unless a turn says it.
    """
    beside = {name: value for name in REASONING if not is_blank(value := fields.get(name)) and not _is_setting(value)}
    thought = reasoning_of(beside, "", faults)
    answers = [number for number, turn in enumerate(turns) if turn.role == "assistant"]
    if thought is None or not answers:
        return list(turns)
    if any(thought.strip() in f"{turn.reasoning or ''}\n{turn.content}" for turn in turns):
        read.update(beside)
    elif len(answers) == 1 and turns[answers[0]].reasoning is None:
        read.update(beside)
        return [replace(turn, reasoning=thought) if turn.role == "assistant" else turn for turn in turns]
    else:
        name = next(iter(beside))
        reason = f"{name} stands beside the messages, and it is not clear which answer it belongs to"
        faults.error("unsupported-field", name, f"{reason}: write it into the message, under the same name")
    return list(turns)


def _is_setting(value: Any) -> bool:
    return isinstance(value, bool | int) or (isinstance(value, str) and value.strip().casefold() in _SETTINGS)


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


# --- What is asked ----------------------------------------------------------------------------------------------------


def context_of(value: Any, place: str, faults: Faults) -> str:
    """The text that a question is about: a text, or a list of texts or documents, each a paragraph."""
    texts = _context_texts(value)
    if texts is None:
        reason = f"the field holds {kind_of(value)} of a form that is not known: write a text or a list of texts"
        faults.error("unsupported-field", place, reason)
        return ""
    known = (faults.text(text, place) or "" for text in texts)
    return "\n\n".join(text.strip() for text in known if text.strip())


def is_reference(name: str, value: Any) -> bool:
    """Whether a field of a context only names one, by a number, an id or an address: then there is nothing to read.

    `context` itself is always read: it is what Dolly and SQuAD call the text.
    """
    if name == "context":
        return False
    if isinstance(value, bool | int | float):
        return True
    if isinstance(value, list | tuple) and value and all(isinstance(one, int | float) for one in value):
        return True
    texts = _context_texts(value)
    return bool(texts) and what_fields_hold([{name: texts}])[name] is Holds.NAMES


def _context_texts(value: Any) -> list[str] | None:
    """The texts of a context; None where its form is not known.

    Known are a text, an object of a text with a title, a list of such, and an object of a list of texts (PubMedQA's
    `contexts`, MS MARCO's `passage_text`).
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        for name in ("contexts", "passage_text"):
            if isinstance(value.get(name), list):
                return _context_texts(value[name])
        body = next((value[name] for name in _BODIES if isinstance(value.get(name), str)), None)
        title = value.get("title")
        if body is None:
            return None
        return [f"{title}\n{body}" if isinstance(title, str) and title.strip() else body]
    if isinstance(value, list | tuple):
        parts = [_context_texts(part) if isinstance(part, str | Mapping) else None for part in value]
        return None if None in parts else [text for part in parts if part for text in part]
    return None


def options_of(value: Any, place: str, faults: Faults) -> str:
    """The options of a question as lines, each with its letter: `A. yes`.

    Read are a text, a list of texts, an object of texts by letter, an object of a list `text` and a list `label`, and a
    list of objects that have them.
    """
    if isinstance(value, str):
        return (faults.text(value, place) or "").strip()
    pairs = _labelled(value)
    if pairs is None:
        reason = f"the field holds {kind_of(value)} of a form that is not known: write a list of texts"
        faults.error("unsupported-field", place, reason)
        return ""
    if all(re.match(rf"\(?{re.escape(label)}[.):]", text.strip()) for label, text in pairs):
        return "\n".join(text.strip() for _, text in pairs)
    return "\n".join(f"{label}. {text.strip()}" for label, text in pairs)


def _labelled(value: Any) -> list[tuple[str, str]] | None:
    """(letter, text) of each option; None where the form is not known."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        labels = value.get("label") or _letters(len(value["text"]))
        if not isinstance(labels, list) or len(labels) != len(value["text"]):
            return None
        pairs = list(zip(labels, value["text"], strict=True))
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, list | tuple):
        letters = _letters(len(value))
        pairs = [
            (one.get("label") or one.get("key") or letter, one.get("text") or one.get("value"))
            if isinstance(one, Mapping)
            else (letter, one)
            for letter, one in zip(letters, value, strict=True)
        ]
    else:
        return None
    if not all(isinstance(text, str | int | float) and not isinstance(text, bool) for _, text in pairs):
        return None
    return [(str(label), str(text)) for label, text in pairs]


def _letters(count: int) -> list[str]:
    letters = string.ascii_uppercase
    return list(letters[:count]) if count <= len(letters) else [str(number) for number in range(1, count + 1)]


def history_of(value: Any, place: str, faults: Faults) -> list[Turn]:
    """Earlier turns as LLaMA-Factory writes them: a list of [question, answer]. The answers are learned, as there."""
    if isinstance(value, str):  # a table has it as JSON
        try:
            value = loads(value)
        except ValueError:
            value = None
    wanted = "a list of pairs [question, answer] is wanted"
    if not isinstance(value, list | tuple):
        faults.error("bad-history", place, f"the field holds earlier turns that cannot be read: {wanted}")
        return []
    turns: list[Turn] = []
    for number, pair in enumerate(value):
        here = f"{place}[{number}]"
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            faults.error("bad-history", here, f"the earlier turn is {kind_of(pair)}, where {wanted}")
            continue
        for part, (role, said) in enumerate(zip(("user", "assistant"), pair, strict=True)):
            text = faults.text(said, f"{here}[{part}]")
            if text is not None and not text.strip():
                faults.error("empty-answer" if part else "empty-prompt", f"{here}[{part}]", "the earlier turn is empty")
            elif text is not None:
                turns.append(Turn("assistant", text, trained=True) if role == "assistant" else Turn("user", text))
    return turns


def reasoning_of(fields: Mapping[str, Any], place: str, faults: Faults) -> str | None:
    """What an assistant thought before an answer: the text of `reasoning_content`, `reasoning` or `thinking`."""
    found: dict[str, str] = {}
    for name in REASONING:
        if not is_blank(fields.get(name)) and not _is_setting(fields[name]):
            here = f"{place}.{name}" if place else name
            text = faults.text(fields[name], here)
            if text is not None:
                found[name] = text
    if len(set(found.values())) > 1:
        faults.error("unsupported-field", place or None, f"{' and '.join(found)} differ: keep one of them")
    return next(iter(found.values()), None)
