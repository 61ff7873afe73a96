"""Fields of a record or message besides its prompt and answer: context, options, earlier turns, reasoning.

A field that changes the meaning of an example is used, or reported as an error if it cannot be used. The caller counts
all other fields as not read.
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
from domain_ft.corpus.conversations.training_marks import is_blank
from domain_ft.corpus.readers.base import join_names, kind_of
from domain_ft.corpus.readers.choosing import Holds, what_fields_hold
from domain_ft.corpus.verdicts import plain_name
from domain_ft.json_files import loads
from domain_ft.quoting import listed

HISTORY = "history"
_HISTORIES = (
    *("history", "conversationhistory", "chathistory", "dialoguehistory", "dialoghistory", "messagehistory"),
    *("previousturns", "previousmessages", "priorturns", "priormessages", "pastmessages", "contextmessages"),
)
"""Plain names of fields with earlier turns."""
SYSTEM = ("system", "system_prompt", "system_message", "system_instruction")
CONTEXT = (
    *("context", "contexts", "passage", "passages", "article", "articles", "document", "documents", "background"),
    *("evidence", "reference_text", "paragraph", "paragraphs", "story", "retrieved_contexts", "retrieved_documents"),
)
"""Fields with the text that a question is about."""
_CONTEXTS = (
    *(plain_name(name) for name in CONTEXT),
    *("ctx", "contexttext", "sqlcontext", "premise", "excerpt", "passagetext", "sourcetext"),
)
_CONTEXTS_OF_PAIRS = ("knowledge", "abstract", "table", "schema")
"""Plain names of more fields with a context, in records with a prompt and an answer. Records with messages often have
these fields for other purposes."""
_REASONING_NAMES = (
    *("cot", "chainofthought", "scratchpad", "rationale", "reasoningdetails", "reasoningtext", "reasoningtrace"),
    *("analysis", "thought", "thoughts", "thinkingcontent"),
)
"""Plain names of fields that often hold reasoning. They are not read, because the name alone does not prove it."""
QUESTIONS = ("question", "query", "prompt", "instruction")
"""Fields with a question. If a record has several, each must be read, contain the prompt, or be part of the prompt."""
OPTIONS = ("options", "choices")
REASONING = ("reasoning_content", "reasoning", "thinking")
_BODIES = ("text", "content", "contents", "body", "passage_text", "page_content")
"""Fields of a document that may hold its text."""
_SETTINGS = ("on", "off", "none", "low", "medium", "high", "true", "false", "enabled", "disabled")
"""Values of `reasoning` and `thinking` that are settings of a model, not its reasoning."""
_OPTION_COLUMNS = (
    ("opa", "opb", "opc", "opd", "ope"),
    ("option_a", "option_b", "option_c", "option_d", "option_e"),
    ("A", "B", "C", "D", "E"),
    *(
        tuple(f"{name}{number}" for number in range(6))
        for name in ("option", "option_", "opt", "choice", "choice_", "alternative", "ending", "sol")
    ),
    ("choice_a", "choice_b", "choice_c", "choice_d", "choice_e"),
)
_SPEAKERS = ("role", "from")
"""Fields of a message that name its speaker."""
_REFUSED = {
    "functions": "this is OpenAI's older way to declare tools: use tools instead",
    "chat_template_kwargs": "settings of the chat template cannot differ between records: remove the field",
}


def history_fields(fields: Mapping[str, Any]) -> list[str]:
    """The fields of a record with earlier turns. A number or truth value counts only in the field `history`."""
    return [
        name
        for name, value in fields.items()
        if plain_name(name) in _HISTORIES and (name == HISTORY or not isinstance(value, bool | int | float))
    ]


def context_fields(fields: Mapping[str, Any], *, of_pairs: bool) -> list[str]:
    """The fields of a record with a text that the question is about, in the order of their usual names.

    Args:
        fields: of the record.
        of_pairs: whether the record is a prompt with an answer, not a list of messages.
    """
    names = (*_CONTEXTS, *(_CONTEXTS_OF_PAIRS if of_pairs else ()))
    order = {name: place for place, name in enumerate(dict.fromkeys(names))}
    found = [name for name, value in fields.items() if plain_name(name) in order and _is_context(name, value)]
    return sorted(found, key=lambda name: order[plain_name(name)])


def _is_context(name: str, value: Any) -> bool:
    """Whether a field holds a context. Under one of `_CONTEXTS_OF_PAIRS`, each text must have more than two words."""
    if name in CONTEXT or plain_name(name) not in _CONTEXTS_OF_PAIRS:
        return True
    texts = _paragraphs(value)
    return texts is not None and bool(texts) and all(len(text.split()) > 2 for text in texts)


def names_reasoning(name: str) -> bool:
    """Whether the name of an unread field, of a record or of a message, suggests an answer's reasoning."""
    return plain_name(name.rpartition(".")[2]) in _REASONING_NAMES


# --- Fields that cannot be used ---------------------------------------------------------------------------------------


def is_preference(fields: Mapping[str, Any]) -> bool:
    """Whether a record is a preference pair: a chosen and a rejected answer."""
    return "chosen" in fields and "rejected" in fields


def preference_fault() -> Fault:
    """The fault of a preference pair."""
    return Fault(
        "preference-pair",
        "chosen",
        "the record holds a chosen and a rejected answer: `domain-ft prefer` learns from both; for instruct to learn "
        "only the chosen answers, if they are text, name the fields: "
        "--prompt-field F --answer-field chosen",
    )


def refuse_fields(fields: Mapping[str, Any], faults: Faults) -> None:
    """Report fields that change how a record is rendered and are not supported."""
    for name, reason in _REFUSED.items():
        if not is_blank(fields.get(name)):
            faults.error("unsupported-field", name, reason)


def refuse_option_columns(fields: Mapping[str, Any], prompts: Iterable[str], faults: Faults) -> None:
    """Report options of a question in separate columns: the user has to name those that belong to the prompt."""
    for names in _OPTION_COLUMNS:
        # A single letter in lower case is rarely an option.
        known = {name if len(name) == 1 else name.casefold() for name in names}
        present = [
            name
            for name, value in fields.items()
            if (name if len(name) == 1 else name.casefold()) in known and not is_blank(value)
        ]
        if len(present) > 1:
            named = shlex.quote(join_names([*prompts, *present]))
            reason = f"the options in {listed(present)} are not read; name them: --prompt-field {named}"
            faults.error("unsupported-field", present[0], reason)


def refuse_missing_context(fields: Mapping[str, Any], turns: Iterable[Turn], read: set[str], faults: Faults) -> None:
    """Report earlier turns, context and options beside a list of messages, unless the messages contain their text."""
    all_text = "\n".join(turn.content for turn in turns)
    contexts = context_fields(fields, of_pairs=False)
    for name in (*history_fields(fields), *contexts, *OPTIONS):
        value = fields.get(name)
        if is_blank(value) or (name in contexts and is_reference(name, value)):
            continue
        texts = (_paragraphs(value) if name in contexts else None) or list(_texts(value))
        if texts and all(text.strip() in all_text for text in texts):
            read.add(name)
        else:
            reason = f"the text of {name} is in none of the messages: write it into a message"
            faults.error("unsupported-field", name, f"{reason}, or remove the field")
    for name in QUESTIONS:
        if isinstance(fields.get(name), str) and fields[name].strip() in all_text:
            read.add(name)


def refuse_questions(
    fields: Mapping[str, Any], prompt: str, prompt_fields: Sequence[str], read: set[str], faults: Faults
) -> None:
    """Report a second question or instruction that is not part of the prompt, such as `question` and `instruction`.

    Args:
        fields: of the record.
        prompt: the whole prompt.
        prompt_fields: the fields that the prompt comes from.
        read: receives the fields whose text the prompt contains.
        faults: receives the others, unless their text contains the prompt.
    """
    for name in QUESTIONS:
        value = fields.get(name)
        if name in prompt_fields or name in read or not isinstance(value, str) or is_blank(value):
            continue
        if value.strip() in prompt:
            read.add(name)
        elif prompt not in value:  # a filled template that contains the prompt is only listed as not read
            named = ",".join([name, *prompt_fields])
            reason = f"{name} is not read, only {prompt_fields[0]}; name both: --prompt-field {named} --answer-field F"
            faults.error("unsupported-field", name, f"{reason}, or remove the field")


def attach_reasoning(fields: Mapping[str, Any], turns: Sequence[Turn], read: set[str], faults: Faults) -> list[Turn]:
    """The turns of a list of messages, with the reasoning from a field of the record.

    If a turn already contains the reasoning, nothing changes. Otherwise the reasoning is added to the only answer. An
    error is reported if there are several answers, or if the only answer has other reasoning.
    """
    given = {name: value for name in REASONING if not is_blank(value := fields.get(name)) and not _is_setting(value)}
    reasoning = reasoning_of(given, "", faults)
    answers = [number for number, turn in enumerate(turns) if turn.role == "assistant"]
    if reasoning is None or not answers:
        return list(turns)
    if any(reasoning.strip() in f"{turn.reasoning or ''}\n{turn.content}" for turn in turns):
        read.update(given)
    elif len(answers) == 1 and turns[answers[0]].reasoning is None:
        read.update(given)
        return [replace(turn, reasoning=reasoning) if turn.role == "assistant" else turn for turn in turns]
    else:
        name = next(iter(given))
        reason = f"{name} is outside the messages, and it is not clear which answer it belongs to"
        faults.error("unsupported-field", name, f"{reason}: write it into the message, under the same name")
    return list(turns)


def _is_setting(value: Any) -> bool:
    return isinstance(value, bool | int) or (isinstance(value, str) and value.strip().casefold() in _SETTINGS)


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        values = (
            [part for name, part in value.items() if name not in _SPEAKERS] if isinstance(value, Mapping) else value
        )
        for part in values:
            yield from _texts(part)


# --- Fields that are part of the prompt -------------------------------------------------------------------------------


def context_of(value: Any, place: str, faults: Faults) -> str:
    """The context of a question, with each text or document of the value as a paragraph; see `_paragraphs`."""
    texts = _paragraphs(value)
    if texts is None:
        reason = f"the field holds {kind_of(value)} in an unknown format: write a text or a list of texts"
        faults.error("unsupported-field", place, reason)
        return ""
    clean = (faults.text(text, place) or "" for text in texts)
    return "\n\n".join(text.strip() for text in clean if text.strip())


def is_reference(name: str, value: Any) -> bool:
    """Whether a context field only refers to a text, by a number, an id or a URL.

    A field named `context` or `ctx` is never a reference: Dolly and SQuAD use that name for the text.
    """
    if plain_name(name) in ("context", "ctx"):
        return False
    if isinstance(value, bool | int | float):
        return True
    if isinstance(value, list | tuple) and value and all(isinstance(one, int | float) for one in value):
        return True
    texts = _paragraphs(value)
    return bool(texts) and what_fields_hold([{name: texts}])[name] is Holds.NAMES


def _paragraphs(value: Any) -> list[str] | None:
    """The texts of a context; None if its format is unknown.

    Known formats: a text, an object with a text and possibly a title, a list of either, and an object with a list of
    texts (PubMedQA's `contexts`, MS MARCO's `passage_text`).
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        for name in ("contexts", "passage_text"):
            if isinstance(value.get(name), list):
                return _paragraphs(value[name])
        body = next((value[name] for name in _BODIES if isinstance(value.get(name), str)), None)
        title = value.get("title")
        if body is None:
            return None
        return [f"{title}\n{body}" if isinstance(title, str) and title.strip() else body]
    if isinstance(value, list | tuple):
        parts = [_paragraphs(part) if isinstance(part, str | Mapping) else None for part in value]
        return None if None in parts else [text for part in parts if part for text in part]
    return None


def options_of(value: Any, place: str, faults: Faults) -> str:
    """The options of a question as lines with letters or other labels: `A. yes`.

    Known formats: a text, a list of texts, an object of texts by letter, an object with the lists `text` and `label`,
    and a list of objects with `text` and `label` (or `value` and `key`). An option may also be a number.
    """
    if isinstance(value, str):
        return (faults.text(value, place) or "").strip()
    pairs = _labelled_options(value)
    if pairs is None:
        reason = f"the field holds {kind_of(value)} in an unknown format: write a list of texts"
        faults.error("unsupported-field", place, reason)
        return ""
    if all(re.match(rf"\(?{re.escape(label)}[.):]", text.strip()) for label, text in pairs):
        return "\n".join(text.strip() for _, text in pairs)
    return "\n".join(f"{label}. {text.strip()}" for label, text in pairs)


def _labelled_options(value: Any) -> list[tuple[str, str]] | None:
    """(label, text) of each option; None if the format is unknown."""
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
    """Earlier turns as in LLaMA-Factory: a list of [question, answer], or its JSON text. Its answers are trained on."""
    if isinstance(value, str):  # JSON in a table's cell
        try:
            value = loads(value)
        except ValueError:
            value = None
    expected = "a list of pairs [question, answer] is expected"
    if not isinstance(value, list | tuple):
        faults.error("bad-history", place, f"the field holds earlier turns that cannot be read: {expected}")
        return []
    turns: list[Turn] = []
    for number, pair in enumerate(value):
        here = f"{place}[{number}]"
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            faults.error("bad-history", here, f"the earlier turn is {kind_of(pair)}, where {expected}")
            continue
        for part, (role, content) in enumerate(zip(("user", "assistant"), pair, strict=True)):
            text = faults.text(content, f"{here}[{part}]")
            if text is not None and not text.strip():
                faults.error("empty-answer" if part else "empty-prompt", f"{here}[{part}]", "the earlier turn is empty")
            elif text is not None:
                turns.append(Turn("assistant", text, trained=True) if role == "assistant" else Turn("user", text))
    return turns


def reasoning_of(fields: Mapping[str, Any], place: str, faults: Faults) -> str | None:
    """The reasoning before an answer: the text of `reasoning_content`, `reasoning` or `thinking`."""
    texts: dict[str, str] = {}
    for name in REASONING:
        if not is_blank(fields.get(name)) and not _is_setting(fields[name]):
            here = f"{place}.{name}" if place else name
            text = faults.text(fields[name], here)
            if text is not None:
                texts[name] = text
    if len(set(texts.values())) > 1:
        faults.error("unsupported-field", place or None, f"{' and '.join(texts)} differ: keep one of them")
    return next(iter(texts.values()), None)
