"""Finds markers of chat templates in texts, such as `<|im_start|>user` and `[INST]`.

The model's own template would render such a text a second time, and the model would learn one template inside another.
Markers in code are ignored, and so are tokens such as `<|im_start|>` that no role follows. Signs that ordinary texts
may contain too, such as the heading `### Instruction:` or `</s>` at the end, only lead to a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from domain_ft.corpus.conversations.conversation import Turn
from domain_ft.corpus.conversations.faults import Faults

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_RENDERED = re.compile(
    r"<\|(?:im_start|start_header_id)\|>\s*(?:system|user|assistant|tool)\b"
    r"|<start_of_turn>(?:user|model)\b|<\|start\|>(?:system|developer|user|assistant)\b"
    r"|<\|(?:START_OF_TURN_TOKEN|USER_TOKEN|CHATBOT_TOKEN)\|>"
    r"|^\s*<\|(?:system|user|assistant|prompter|end_of_prompt)\|>"
    r"|\[INST\](?=.*\[/INST\])|^\s*(?:<s>\s*)?\[INST\]|<<SYS>>(?=.*<</SYS>>)",
    re.MULTILINE | re.DOTALL,
)
_HEADINGS = re.compile(r"^#{2,3} ?(?:Instruction|Input|Response|Human|User|Assistant)s?:", re.MULTILINE | re.IGNORECASE)
_ASKING = re.compile(r"^(?:Human|USER|User):", re.MULTILINE)
_ANSWERING = re.compile(r"^(?:Assistant|ASSISTANT):", re.MULTILINE)
_END = re.compile(r"(?:</s>|<\|(?:im_end|endoftext|eot_id|end_of_text|end|eom_id)\|>|<end_of_turn>|<eos>)\s*\Z")


def find_template_marker(text: str) -> str | None:
    """The first marker that only a chat template writes; None if there is none.

    >>> find_template_marker("<|im_start|>user\\nWhy?<|im_end|>")
    '<|im_start|>user'
    """
    found = _RENDERED.search(_CODE.sub(" ", text)) if "<" in text or "[" in text else None
    return None if found is None else found[0].strip()


def refuse_rendered(turns: Iterable[Turn], faults: Faults) -> None:
    """Report turns whose text a template has already rendered: an error if that is certain, otherwise a warning."""
    for number, turn in enumerate(turns, 1):
        if turn.role == "tool":
            continue  # the output of a tool may contain anything
        whose = f"turn {number}, the {turn.role}'s,"
        marker = find_template_marker(turn.content)
        if marker is not None:
            reason = f"{whose} contains the chat template marker {marker} and would be rendered twice"
            fix = "give each turn as a message with its role, without such markers"
            quote = "if the text only mentions it, write it between backticks"
            faults.error("rendered-text", None, f"{reason}: {fix}; {quote}")
            continue
        hint = _possible_marker(turn.content)
        if hint is not None:
            reason = f"{whose} contains '{hint}', which looks like a prompt template: it is learned as text"
            faults.warn("rendered-text", None, reason)


def _possible_marker(text: str) -> str | None:
    """The first text that may be from a template; None if there is none."""
    found = _HEADINGS.search(text) or _END.search(text)
    if found is None and _ANSWERING.search(text):
        found = _ASKING.search(text)
    return None if found is None else found[0].strip()
