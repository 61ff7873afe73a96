"""Pictures, films, sound and attached files: only text can be learned, so records that need them are refused.

They are found in fields (`images`, `image_path`, `pixel_values`) and as placeholders in the text (`<image>`,
`<|vision_start|>`). A text may also speak of such a name: HTML has tags `<img>`, `<video>` and `<audio>`, and an answer
may explain what `<image>` means. So code is not looked at, nor is a name with a closing tag or one that is called a
tag, an element or a token; and names of HTML's tags count only where they have the place of a placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from domain_ft.corpus.conversations.conversation import Turn
from domain_ft.corpus.conversations.faults import Faults
from domain_ft.corpus.conversations.marks import is_blank

_FIELD = re.compile(
    r"(?:image|img|picture|photo|video|audio)s?(?P<where>_(?:path|url|uri|file|filename|bytes|base64|b64|data|tensor)s?)?"
    r"|pixel_values(?:_videos)?|input_features|files|attachments?",
    re.IGNORECASE,
)
_HINT = re.compile(r"(?:.*_)?(?:image|img|picture|photo|video|audio)s?(?:_.*)?", re.IGNORECASE)
"""Fields that speak of pictures, films or sound in any way, such as `image_id`."""

_FILE = re.compile(
    r"^data:|^https?://\S+$|^[A-Za-z0-9+/=]{200,}$"
    r"|\.(jpe?g|png|gif|webp|bmp|tiff?|dcm|mp3|wav|flac|ogg|m4a|mp4|avi|mov|mkv|webm)$",
    re.IGNORECASE,
)

_KIND = r"(?:image|img|video|audio)"
_SPECIAL = re.compile(
    rf"<\|(?:(?:begin|start|end)_of_)?{_KIND}(?:_?\w+)?\|>|<\|vision_\w+\|>|<start_of_image>|<image_(?:soft_token|placeholder|token|pad)>"
    r"|<IMG_CONTEXT>|<ImageHere>|<img>[^<>\n]+</img>",
    re.IGNORECASE,
)
"""What stands for a picture wherever it is: no text has these for another purpose."""
_NAMED = re.compile(r"<(?P<name>image)(?:[ _]?\d+)?>|\[(?P<bracket>IMG)\]")
_TAGS = re.compile(
    rf"<(?P<name>{_KIND})(?:[ _]?\d+)?>|\[(?P<bracket>image|img|video|audio)(?:[ _]?\d+)?\]", re.IGNORECASE
)
_EDGE = re.compile(
    r"^\s*<(?P<first>video|audio)(?:[ _]?\d+)?>|<(?P<last>video|audio)(?:[ _]?\d+)?>\s*$|^\s*<(?P<alone>img)>\s*$",
    re.MULTILINE,
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_SPOKEN_OF_AFTER = re.compile(
    r"""["'”’»」]|[\s,]*(?:tags?|elements?|tokens?|nodes?|markers?|placeholders?|means?|stands?)\b""", re.IGNORECASE
)
_SPOKEN_OF_BEFORE = re.compile(
    r"""["'“‘«「]$|\b(?:tags?|elements?|tokens?|nodes?|markers?|placeholders?|called|named)[\s:(]*$""", re.IGNORECASE
)


def refuse_media(fields: Mapping[str, Any], place: str, faults: Faults) -> None:
    """Note pictures, films, sound and files of a record or message.

    Args:
        fields: of the record or message.
        place: of the message; empty for the record.
        faults: told of each.
    """
    for name, value in fields.items():
        known = _FIELD.fullmatch(str(name))
        if known is None or is_blank(value) or isinstance(value, bool | int | float):
            continue  # a number is an id or a count
        plural = str(name).endswith("s")
        described = isinstance(value, str) and not plural and known["where"] is None and not _FILE.search(value.strip())
        if described:
            continue
        here = f"{place}.{name}" if place else str(name)
        kind = name if plural else f"{name}s"
        faults.error(
            "unsupported-media", here, f"the record has {kind}, and only text can be learned: leave such records out"
        )


def refuse_media_places(turns: Iterable[Turn], fields: Mapping[str, Any], faults: Faults) -> None:
    """Note placeholders of pictures, films and sound in what is said.

    Args:
        turns: of the record.
        fields: of the record; where one is about pictures, `<img>` and `[image]` stand for one too.
        faults: told of the first placeholder of each turn.
    """
    pictured = any(_HINT.fullmatch(str(name)) and not is_blank(value) for name, value in fields.items())
    for number, turn in enumerate(turns, 1):
        found = _placeholder(turn.content, of_answer=turn.role == "assistant", pictured=pictured)
        if found is not None:
            reason = f"turn {number}, the {turn.role}'s, holds the placeholder {found}, and only text can be learned"
            fix = "leave such records out; where the text only speaks of it, write it between backticks"
            faults.error("unsupported-media", None, f"{reason}: {fix}")


def _placeholder(text: str, *, of_answer: bool, pictured: bool) -> str | None:
    """The first placeholder in a text; None where there is none."""
    if "<" not in text and "[" not in text:
        return None
    bare = _CODE.sub(lambda code: " " * len(code[0]), text)
    special = _SPECIAL.search(bare)
    if special is not None:
        return special[0]
    for match in (_TAGS if pictured else _NAMED).finditer(bare):
        if not _is_spoken_of(match, bare):
            return match[0]
    edge = None if of_answer else _EDGE.search(bare)
    if edge is not None and f"</{edge['first'] or edge['last'] or edge['alone']}>" not in bare:
        return edge[0].strip()
    return None


def _is_spoken_of(match: re.Match[str], text: str) -> bool:
    """Whether a text has a name such as `<image>` as a tag of a language, or speaks of it."""
    closing = f"</{match['name']}>" if match["name"] else f"[/{match['bracket']}]"
    if closing.casefold() in text.casefold():
        return True
    before, after = text[max(match.start() - 40, 0) : match.start()], text[match.end() : match.end() + 40]
    return bool(_SPOKEN_OF_AFTER.match(after) or _SPOKEN_OF_BEFORE.search(before))
