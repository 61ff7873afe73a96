"""Marks of a chat template that stand in the text itself: `<|im_start|>user`, `[INST]`, `### Instruction:`.

A text that was rendered once would be rendered again, in the model's own template: the model would read and learn one
template inside another. Code is not looked at, and a name that a text only speaks of is not taken for a mark.
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


def rendered_mark(text: str) -> str | None:
    """What shows that a text was rendered by a chat template; None where nothing does.

    >>> rendered_mark("<|im_start|>user\\nWhy?<|im_end|>")
    '<|im_start|>user'
    """
    found = _RENDERED.search(_CODE.sub(" ", text)) if "<" in text or "[" in text else None
    return None if found is None else found[0].strip()


def refuse_rendered(turns: Iterable[Turn], faults: Faults) -> None:
    """Note turns whose text was rendered by a template before: an error where it is certain, else a warning."""
    for number, turn in enumerate(turns, 1):
        if turn.role == "tool":
            continue  # it answers with whatever it found
        whose = f"turn {number}, the {turn.role}'s,"
        mark = rendered_mark(turn.content)
        if mark is not None:
            reason = f"{whose} holds the mark {mark} of a chat template, and would be rendered twice"
            fix = "give each turn as a message with its role, without such marks"
            quote = "where the text only speaks of it, write it between backticks"
            faults.error("rendered-text", None, f"{reason}: {fix}; {quote}")
            continue
        seen = _hint(turn.content)
        if seen is not None:
            reason = f"{whose} holds '{seen}', as a prompt template writes it: it is learned as text"
            faults.warn("rendered-text", None, reason)


def _hint(text: str) -> str | None:
    """What may show that a text was rendered before."""
    found = _HEADINGS.search(text) or _END.search(text)
    if found is None and _ANSWERING.search(text):
        found = _ASKING.search(text)
    return None if found is None else found[0].strip()
