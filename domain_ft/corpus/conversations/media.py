"""Refuses records with images, video, audio or attached files, because only text can be learned.

Media appear in fields (`images`, `image_path`, `pixel_values`) and as placeholders in the text (`<image>`,
`<|vision_start|>`). But a text may also contain HTML tags (`<img>`, `<video>`, `<audio>`) or explain what `<image>`
means. So such names are ignored in code, in quotation marks, with a closing tag, and where the text calls them a tag,
an element or a token. Unless a field of the record mentions media, names of HTML tags count only where placeholders
usually are: outside answers, at the beginning or end of a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from domain_ft.corpus.conversations.conversation import Turn
from domain_ft.corpus.conversations.faults import Faults
from domain_ft.corpus.conversations.training_marks import is_blank

_FIELD = re.compile(
    r"(?:image|img|picture|photo|video|audio)s?(?P<where>_(?:path|url|uri|file|filename|bytes|base64|b64|data|tensor)s?)?"
    r"|pixel_values(?:_videos)?|input_features|files|attachments?",
    re.IGNORECASE,
)
_FILE_FIELD = re.compile(
    r"(?:clip|frame|screenshot|figure|scan|recording)s?(?:_(?:path|url|uri|file|filename)s?)?",
    re.IGNORECASE,
)
"""Fields of media if their values are files: the same names are also used for texts."""
_HINT = re.compile(r"(?:.*_)?(?:image|img|picture|photo|video|audio)s?(?:_.*)?", re.IGNORECASE)
"""Fields whose name mentions media, such as `image_id`."""

_FILE = re.compile(
    r"^data:|^https?://\S+$|^[A-Za-z0-9+/=]{200,}$"
    r"|\.(jpe?g|png|gif|webp|bmp|tiff?|dcm|mp3|wav|flac|ogg|m4a|mp4|avi|mov|mkv|webm)$",
    re.IGNORECASE,
)
_DOCUMENT = re.compile(r"\.(pdf|docx?|xlsx?|pptx?|odt|ods|odp|rtf|zip|svg|heic)$", re.IGNORECASE)

_KIND = r"(?:image|img|video|audio)"
_SPECIAL = re.compile(
    rf"<\|(?:(?:begin|start|end)_of_)?{_KIND}(?:_?\w+)?\|>|<\|vision_\w+\|>|<start_of_image>|<image_(?:soft_token|placeholder|token|pad)>"
    r"|<IMG_CONTEXT>|<ImageHere>|<img>[^<>\n]+</img>"
    rf"|!\[[^\[\]\n]*\]\(\s*<?data:{_KIND}/[\w.+-]*",
    re.IGNORECASE,
)
"""Texts that are always placeholders."""
_NAMED = re.compile(r"<(?P<name>image)(?:[ _]?\d+)?>|\[(?P<bracket>IMG)\]")
_TAGS = re.compile(
    rf"<(?P<name>{_KIND})(?:[ _]?\d+)?>|\[(?P<bracket>image|img|video|audio)(?:[ _]?\d+)?\]", re.IGNORECASE
)
_EDGE = re.compile(
    r"^\s*<(?P<first>video|audio)(?:[ _]?\d+)?>|<(?P<last>video|audio)(?:[ _]?\d+)?>\s*$|^\s*<(?P<line>img)>\s*$",
    re.MULTILINE,
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_MENTIONED_AFTER = re.compile(
    r"""["'”’»」]|[\s,]*(?:tags?|elements?|tokens?|nodes?|markers?|placeholders?|means?|stands?)\b""", re.IGNORECASE
)
_MENTIONED_BEFORE = re.compile(
    r"""["'“‘«「]$|\b(?:tags?|elements?|tokens?|nodes?|markers?|placeholders?|called|named)[\s:(]*$""", re.IGNORECASE
)


def refuse_media(fields: Mapping[str, Any], place: str, faults: Faults) -> None:
    """Report fields with images, video, audio or files.

    Args:
        fields: of the record or message.
        place: of the message; empty for the record.
        faults: receives one fault per field.
    """
    for name, value in fields.items():
        known = _FIELD.fullmatch(str(name))
        if known is None and not (_FILE_FIELD.fullmatch(str(name)) and _has_file(value)):
            continue
        if is_blank(value) or isinstance(value, bool | int | float):
            continue  # numbers are ids or counts
        plural = str(name).endswith("s")
        may_describe = known is not None and not plural and known["where"] is None
        if may_describe and isinstance(value, str) and not _has_file(value):
            continue
        here = f"{place}.{name}" if place else str(name)
        kind = name if plural else f"{name}s"
        faults.error(
            "unsupported-media", here, f"the record has {kind}, but only text can be learned: leave such records out"
        )


def _has_file(value: Any) -> bool:
    """Whether a value, or a value inside it, is a URL, or the name or content of a media file or document."""
    if isinstance(value, str):
        return bool(_FILE.search(value.strip()) or _DOCUMENT.search(value.strip()))
    if isinstance(value, Mapping | list | tuple):
        return any(map(_has_file, value.values() if isinstance(value, Mapping) else value))
    return False


def refuse_placeholders(turns: Iterable[Turn], fields: Mapping[str, Any], faults: Faults) -> None:
    """Report placeholders for media in the text of turns.

    Args:
        turns: of the record.
        fields: of the record. If the name of one mentions media, `<img>` and `[image]` are placeholders anywhere.
        faults: receives the first placeholder of each turn.
    """
    has_media_field = any(_HINT.fullmatch(str(name)) and not is_blank(value) for name, value in fields.items())
    for number, turn in enumerate(turns, 1):
        found = _placeholder(turn.content, of_answer=turn.role == "assistant", has_media_field=has_media_field)
        if found is not None:
            reason = f"turn {number}, the {turn.role}'s, has the placeholder {found}, but only text can be learned"
            fix = "leave such records out; if the text only mentions it, write it between backticks"
            faults.error("unsupported-media", None, f"{reason}: {fix}")


def _placeholder(text: str, *, of_answer: bool, has_media_field: bool) -> str | None:
    """The first placeholder in a text; None if there is none."""
    if "<" not in text and "[" not in text:
        return None
    bare = _CODE.sub(lambda code: " " * len(code[0]), text)
    special = _SPECIAL.search(bare)
    if special is not None:
        return special[0]
    for match in (_TAGS if has_media_field else _NAMED).finditer(bare):
        if not _is_mentioned(match, bare):
            return match[0]
    edge = None if of_answer else _EDGE.search(bare)
    if edge is not None and f"</{edge['first'] or edge['last'] or edge['line']}>" not in bare:
        return edge[0].strip()
    return None


def _is_mentioned(match: re.Match[str], text: str) -> bool:
    """Whether a name such as `<image>` has a closing tag, or the text only mentions it."""
    closing = f"</{match['name']}>" if match["name"] else f"[/{match['bracket']}]"
    if closing.casefold() in text.casefold():
        return True
    before, after = text[max(match.start() - 40, 0) : match.start()], text[match.end() : match.end() + 40]
    return bool(_MENTIONED_AFTER.match(after) or _MENTIONED_BEFORE.search(before))
