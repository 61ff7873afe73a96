"""Variety: does one answer, or one phrasing of what is asked, dominate a set of conversations?

A phrase is a run of whole words of 24 bytes or a little more: about five English words or eight Chinese characters, so
that no rule of any language is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from domain_ft.corpus.cleaning import normalise
from domain_ft.corpus.conversations.conversation import Conversation
from domain_ft.corpus.shuffling import beginning
from domain_ft.corpus.words import find_words

PHRASE_BYTES = 24
DOMINATES = 2 / 3  # at this share or above; two classes of examples that are about even do not
FEWEST = 10  # conversations, of fewer than which nothing is said
_COMPARED = 1000  # prompts whose phrases are counted
_EDGE = 500  # characters at either end of a prompt, where its wording stands; what it is about may be long


@dataclass(frozen=True)
class Dominant:
    """What most conversations have in common.

    Attributes:
        text: the answer or phrase, in the words of one of them.
        share: of the conversations that have it.
    """

    text: str
    share: float


def dominant_answer(conversations: Sequence[Conversation]) -> Dominant | None:
    """The last trained answer that most conversations end with, case and white space aside, if one dominates."""
    answers = [[turn.content for turn in conversation.turns if turn.trained][-1:] for conversation in conversations]
    return _dominant([{normalise(answer): answer for answer in own if answer} for own in answers])


def dominant_phrase(conversations: Sequence[Conversation]) -> Dominant | None:
    """The phrase that stands in what is asked first in most conversations, if one dominates.

    Instructions that are all worded alike teach a model to answer that wording alone.
    """
    chosen = beginning(_COMPARED, len(conversations), 0, "phrases")
    asked = (
        next((turn.content for turn in conversations[index].turns if turn.role == "user"), "")
        for index in chosen.tolist()
    )
    return _dominant([phrases(prompt) for prompt in asked])


def phrases(text: str) -> dict[str, str]:
    """The phrases of a text as it has them, by what they are without case and white space, in their order.

    >>> list(phrases("Please translate this into French: cheese").values())
    ['Please translate this into', 'translate this into French', 'this into French: cheese']
    """
    parts = [text] if len(text) <= 2 * _EDGE else [text[:_EDGE], text[-_EDGE:]]
    found: dict[str, str] = {}
    for part in parts:
        words = find_words(part)
        last = 0
        for first, (start, _) in enumerate(words):
            last = max(last, first)
            while last < len(words) and len(part[start : words[last][1]].encode("utf-8", "replace")) < PHRASE_BYTES:
                last += 1
            if last == len(words) and first > 0:
                break  # what is left is the end of the phrase before
            phrase = part[start : words[min(last, len(words) - 1)][1]]
            found.setdefault(normalise(phrase), phrase)
    return found


def _dominant(texts: Sequence[dict[str, str]]) -> Dominant | None:
    """Of texts by what they have in common, those of each conversation, the one that most have, if it dominates."""
    if len(texts) < FEWEST:
        return None
    counts: Counter[str] = Counter(essence for own in texts for essence in own)
    for essence, count in counts.most_common(1):
        if count >= DOMINATES * len(texts):
            return Dominant(next(own[essence] for own in texts if essence in own), count / len(texts))
    return None
