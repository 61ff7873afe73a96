"""Detects sets of conversations in which most answers are the same, or most prompts share a phrase.

A phrase is a run of whole words of at least 24 bytes: about five English words or eight Chinese characters. A shorter
prompt is one phrase. This needs no language-specific rules.
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
DOMINATES = 2 / 3  # the minimum share; the answers of two classes of about equal size stay below it
FEWEST = 10  # conversations; smaller sets are not checked
_COMPARED = 1000  # prompts whose phrases are counted
_EDGE = 500  # characters at either end of a long prompt that are searched for phrases


@dataclass(frozen=True)
class Dominant:
    """What most conversations have in common.

    Attributes:
        text: the answer or phrase, as it is written in one of them.
        share: the share of the conversations that have it, from 0 to 1.
    """

    text: str
    share: float


def dominant_answer(conversations: Sequence[Conversation]) -> Dominant | None:
    """The last trained answer of most conversations, compared without case and white space; None if there is none."""
    answers = [[turn.content for turn in conversation.turns if turn.trained][-1:] for conversation in conversations]
    return _dominant([{normalise(answer): answer for answer in last if answer} for last in answers])


def dominant_phrase(conversations: Sequence[Conversation]) -> Dominant | None:
    """The phrase in the first prompts of most conversations (of a sample, if there are many); None if there is none.

    A model trained on prompts with one wording learns to respond to that wording only.
    """
    chosen = beginning(_COMPARED, len(conversations), 0, "phrases")
    prompts = (
        next((turn.content for turn in conversations[index].turns if turn.role == "user"), "")
        for index in chosen.tolist()
    )
    return _dominant([phrases(prompt) for prompt in prompts])


def phrases(text: str) -> dict[str, str]:
    """The phrases of a text in order, by their normalised form (see `normalise`); of a long text, those at its ends.

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
                break  # the remaining words are the end of the previous phrase
            phrase = part[start : words[min(last, len(words) - 1)][1]]
            found.setdefault(normalise(phrase), phrase)
    return found


def _dominant(texts: Sequence[dict[str, str]]) -> Dominant | None:
    """The text that most conversations share; None if there is none. `texts`: each one's texts, by normalised form."""
    if len(texts) < FEWEST:
        return None
    counts: Counter[str] = Counter(key for by_key in texts for key in by_key)
    for key, count in counts.most_common(1):
        if count >= DOMINATES * len(texts):
            return Dominant(next(by_key[key] for by_key in texts if key in by_key), count / len(texts))
    return None
