"""What a record or message holds beside what is said: marks, context, options, reasoning, pictures.

A field that changes the meaning of an example is followed where it is well known, and refused by its name where it
cannot be. All other fields are counted as not read by whoever reads the record.
"""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Iterable, Mapping
from typing import Any

from domain_ft.corpus.conversations.conversation import Turn
from domain_ft.corpus.conversations.faults import Fault, Faults
from domain_ft.corpus.left_out import VERDICT, rejected_by_annotator
from domain_ft.corpus.readers.base import join_names, kind_of
from domain_ft.json_files import loads
from domain_ft.quoting import listed

HISTORY = "history"
SYSTEM = ("system", "system_prompt")
CONTEXT = ("context", "contexts", "passage", "article")
OPTIONS = ("options", "choices")
REASONING = ("reasoning_content", "reasoning", "thinking")
MARKS = ("weight", "train", "training", "loss")
PREFERENCES = ("label", "kto_tag")
"""Where KTO's files say whether a completion is a good one."""

_MEDIA = ("images", "videos", "audios", "image", "video", "audio")
_MEDIA_FILE = re.compile(
    r"^data:|\.(jpe?g|png|gif|webp|bmp|tiff?|mp3|wav|flac|ogg|m4a|mp4|avi|mov|mkv|webm)$", re.IGNORECASE
)
_MEDIA_PLACE = re.compile(
    r"^\s*<(image|video|audio)(?:[ _]?\d+)?>|<(image|video|audio)(?:[ _]?\d+)?>\s*$", re.MULTILINE
)
_OPTION_COLUMNS = (
    ("opa", "opb", "opc", "opd", "ope"),
    ("option_a", "option_b", "option_c", "option_d", "option_e"),
    ("A", "B", "C", "D", "E"),
)
_REFUSED = {
    "functions": "this is the old way to declare tools: write them as tools",
    "documents": "documents beside the messages cannot be rendered: write what they say into a message",
    "chat_template_kwargs": "settings of the chat template cannot be given record by record: take the field out",
}
_REFUSED_OF_TURNS = ("train_detail", "training_detail", "loss_mask", "loss_scale")
_TRUE, _FALSE = ("true", "1", "1.0"), ("false", "0", "0.0")


def is_blank(value: Any) -> bool:
    """Whether a field holds nothing: null, no text, an empty list or object."""
    return value is None or (isinstance(value, str) and not value.strip()) or (value in ([], {}, ()))


# --- Marks of what is learned -----------------------------------------------------------------------------------------


def turn_mark(message: Mapping[str, Any], place: str, faults: Faults) -> bool | None:
    """Whether a turn is marked to be learned; None where nothing marks it.

    Read are `weight` (0 or 1), and `train`, `training` and `loss` (true or false).
    """
    found: dict[str, bool] = {}
    for name in MARKS:
        if name not in message:
            continue
        value = _truth(message[name])
        if value is None or (name == "weight" and isinstance(message[name], bool)):
            wanted = "0 or 1" if name == "weight" else "true or false"
            shown = str(message[name])[:40]
            faults.error("bad-weight", f"{place}.{name}", f"the {name} is {shown}, and {wanted} is wanted")
        else:
            found[name] = value
    if len(set(found.values())) > 1:
        faults.error("bad-weight", place, f"{' and '.join(found)} disagree on whether the turn is learned")
    for name in _REFUSED_OF_TURNS:
        if not is_blank(message.get(name)):
            reason = "parts of a turn cannot be left out of training: split the turn, or mark all of it (weight 0)"
            faults.error("unsupported-field", f"{place}.{name}", reason)
    return next(iter(found.values()), None)


def marked_out(
    fields: Mapping[str, Any], *, of_prompts: bool, of_pairs: bool, read: set[str], faults: Faults
) -> Fault | None:
    """Why a record is not to be learned, where it is marked so; None where it is.

    Args:
        fields: of the record.
        of_prompts: whether it is a prompt and a completion, where `label` is KTO's even as 0 or 1.
        of_pairs: whether it is a question and an answer, where `answer` is no annotator's verdict.
        read: takes the names of the marks.
        faults: told of a weight that is neither 0 nor 1.
    """
    rejected = None if of_pairs else rejected_by_annotator(fields)
    if rejected is not None:
        read.add(VERDICT)
        return Fault("not-learned", VERDICT, rejected, error=False)
    for name in MARKS:
        if name not in fields or (name != "weight" and not _is_bool(fields[name])):
            continue  # a number under `loss` or `train` is somebody's measurement
        read.add(name)
        value = _truth(fields[name])
        if value is None and not is_blank(fields[name]):
            reason = f"the weight is {str(fields[name])[:40]}, and 0 or 1 is wanted: examples are not weighted"
            faults.error("bad-weight", name, reason)
        elif value is False:
            return Fault(
                "not-learned", name, f"the record is marked as not to be learned ({name}: {fields[name]})", error=False
            )
    for name in PREFERENCES:
        if name in fields and (_is_bool(fields[name]) or (of_prompts and _truth(fields[name]) is not None)):
            read.add(name)
            if _truth(fields[name]) is False:
                reason = (
                    f"{name} says that the completion is a bad one (KTO), and instruct learns good ones alone; "
                    "a verb for preference tuning is coming"
                )
                return Fault("bad-completion", name, reason, error=False)
    return None


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().casefold() in ("true", "false"))


def _truth(value: Any) -> bool | None:
    """True or false, as JSON or a table has it; None for anything else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        word = value.strip().casefold()
        return True if word in _TRUE else False if word in _FALSE else None
    return None


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


# --- What is refused --------------------------------------------------------------------------------------------------


def refuse_media(fields: Mapping[str, Any], place: str, faults: Faults) -> None:
    """Note pictures, films and sound of a record or message: only text can be learned."""
    for name in _MEDIA:
        value = fields.get(name)
        if is_blank(value) or (isinstance(value, str) and not name.endswith("s") and not _MEDIA_FILE.search(value)):
            continue
        here = f"{place}.{name}" if place else name
        kind = name if name.endswith("s") else f"{name}s"
        faults.error(
            "unsupported-media", here, f"the record has {kind}, and only text can be learned: leave such records out"
        )


def refuse_media_places(turns: Iterable[Turn], faults: Faults) -> None:
    """Note `<image>` and its kin where they stand for a picture: on a side of a turn or a line of it."""
    for turn in turns:
        found = _MEDIA_PLACE.search(turn.content) if turn.role != "assistant" else None
        name = (found[1] or found[2]) if found else ""
        if found and f"</{name}>" not in turn.content:
            reason = f"the {turn.role}'s turn holds the placeholder <{name}>, and only text can be learned"
            faults.error("unsupported-media", None, reason)


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
        if is_blank(value):
            continue
        texts = list(_texts(value))
        if texts and all(text.strip() in said for text in texts):
            read.add(name)
        else:
            reason = f"{name} stands beside the messages and none of them says it: write it into a message"
            faults.error("unsupported-field", name, f"{reason}, or take the field out")


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


# --- What is asked ----------------------------------------------------------------------------------------------------


def context_of(value: Any, place: str, faults: Faults) -> str:
    """The text that a question is about: a text, or a list of texts, each a paragraph."""
    if isinstance(value, Mapping) and isinstance(value.get("contexts"), list):  # PubMedQA
        value = value["contexts"]
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return "\n\n".join(part for part in value if part.strip())
    if not isinstance(value, str):
        reason = f"the field holds {kind_of(value)}, where text or a list of texts is wanted: write it as text"
        faults.error("unsupported-field", place, reason)
        return ""
    return (faults.text(value, place) or "").strip()


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
        if not is_blank(fields.get(name)):
            here = f"{place}.{name}" if place else name
            text = faults.text(fields[name], here)
            if text is not None:
                found[name] = text
    if len(set(found.values())) > 1:
        faults.error("unsupported-field", place or None, f"{' and '.join(found)} differ: keep one of them")
    return next(iter(found.values()), None)
