"""The fields of preferences, by format; the format of a record is recognised from their names.

pairs       {"prompt", "chosen", "rejected"}: texts or lists of messages; without a prompt, the answers are whole
            conversations, and the prompt is what both begin with. Optional: `margin`, or a score of each answer.
transcript  the same, with texts like HH-RLHF's: "\\n\\nHuman: ... \\n\\nAssistant: ..."
compared    {"prompt", "response_a", "response_b", "winner"}: the winner is a, b or tie
ranking     {"prompt", "completions": [{"response", "score"}, ...]}: UltraFeedback's, and lists with scores or ranks
rated       {"prompt", "completion", "label"}: one answer, which is good (true, 1) or bad (false, 0)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from domain_ft.corpus.conversations.formats import FieldChoice
from domain_ft.corpus.conversations.formats import recognise as recognise_conversation
from domain_ft.corpus.preferences.transcripts import is_transcript
from domain_ft.corpus.verdicts import plain_name, truth
from domain_ft.errors import CorpusError
from domain_ft.json_files import loads
from domain_ft.quoting import listed

PreferenceFormat = Literal["pairs", "transcript", "compared", "ranking", "rated"]

FORMATS: Mapping[PreferenceFormat, str] = {
    "pairs": "a chosen and a rejected answer",
    "transcript": "a chosen and a rejected transcript",
    "compared": "two answers and the winner",
    "ranking": "answers with scores or ranks",
    "rated": "a completion with a label",
}
"""The formats and their names in messages."""

_ANSWERS = ("chosen", "rejected")
_WINNERS = ("winner", "preference", "preferred", "betterresponseid", "better")
_COMPARED = ("response", "answer", "completion", "output", "conversation")
_SIDES = (("a", "b"), ("0", "1"), ("1", "2"))
_LISTS = ("completions", "responses", "answers", "outputs", "candidates", "generations")
TEXTS = ("response", "answer", "completion", "text", "content", "output")
"""The names of the text in an object of a list of answers."""
SCORES = ("finegrainedscore", "overallscore", "score", "rating", "reward")
"""The names of the score of an answer, the likeliest first: UltraFeedback's overall scores are known to have errors."""
RANKS = ("rank",)
"""The names of the rank of an answer. 1 is the best."""
_SCORE_LISTS = ("scores", "ratings", "rewards", "ranks")
_LABELS = ("label", "ktotag", "desirable", "isdesirable")


@dataclass(frozen=True)
class PreferenceChoice:
    """The format and fields that the user named. The attributes are the options of the same names.

    Attributes:
        prompt_field: one or more names, separated by commas, as for conversations.
        score_field: the score (or, if its name begins with `rank`, the rank) of an answer in a list of answers.
    """

    format: PreferenceFormat | Literal["auto"] = "auto"
    prompt_field: str | None = None
    chosen_field: str | None = None
    rejected_field: str | None = None
    score_field: str | None = None
    id_field: str | None = None
    group_field: str | None = None

    @classmethod
    def of(cls, settings: Any) -> PreferenceChoice:
        """The choice in a verb's settings. Options that the verb does not have keep their default."""
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__ if hasattr(settings, name)})

    @property
    def of_conversations(self) -> FieldChoice:
        """The same choice for the prompt, which is read as conversations are."""
        return FieldChoice(prompt_field=self.prompt_field, id_field=self.id_field, group_field=self.group_field)

    @property
    def answers(self) -> tuple[str, str]:
        """The fields of the better and the worse answer."""
        return self.chosen_field or _ANSWERS[0], self.rejected_field or _ANSWERS[1]


class Comparison(NamedTuple):
    """The fields of two answers and of the winner, and the names of the two sides, such as ("a", "b")."""

    one: str
    other: str
    winner: str
    sides: tuple[str, str]


class Ranking(NamedTuple):
    """The field of a list of answers, and the field of the list of their scores, if that is a field of its own."""

    answers: str
    scores: str | None


def recognise(fields: Mapping[str, Any], choice: PreferenceChoice) -> PreferenceFormat | None:
    """The format of a record, from `choice` or from the names of its fields; None if it is unknown."""
    if choice.format != "auto":
        return choice.format
    if choice.chosen_field or choice.rejected_field or all(name in fields for name in _ANSWERS):
        values = [fields.get(name) for name in (*choice.answers, choice.prompt_field or "prompt")]
        return "transcript" if any(map(is_transcript, values)) else "pairs"
    if comparison_in(fields) is not None:
        return "compared"
    ranking = ranking_in(fields, choice)
    if ranking is not None and (ranking.scores or score_name(fields[ranking.answers], choice)):
        return "ranking"
    if label_in(fields) is not None and recognise_conversation(without_label(fields), choice.of_conversations):
        return "rated"
    return None


def unrecognised(fields: Mapping[str, Any], choice: PreferenceChoice, where: str) -> CorpusError:
    """The error for a record of unknown format.

    Args:
        fields: of the record.
        where: its file and line.
    """
    ranking = ranking_in(fields, choice)
    if ranking is not None:
        return CorpusError(
            f"the answers in '{ranking.answers}' have neither scores nor ranks",
            where=where,
            fix="if they are in order, the best first, give --format ranking; if their score has another name, give "
            "--score-field F",
        )
    known = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    return CorpusError(
        f"these are not preferences: the fields are {listed(fields)}",
        where=where,
        fix="name the fields prompt, chosen and rejected (or name yours: --prompt-field F --chosen-field F "
        f"--rejected-field F); for --loss kto: prompt, completion and label. The formats are {known}",
    )


def comparison_in(fields: Mapping[str, Any]) -> Comparison | None:
    """The two answers and the winner of a record; None if it has other fields."""
    names = {plain_name(name): str(name) for name in fields}
    winner = next((names[name] for name in _WINNERS if name in names), None)
    for answer in _COMPARED if winner is not None else ():
        for sides in _SIDES:
            if all(f"{answer}{side}" in names for side in sides):
                one, other = (names[f"{answer}{side}"] for side in sides)
                return Comparison(one, other, str(winner), sides)
    return None


def ranking_in(fields: Mapping[str, Any], choice: PreferenceChoice) -> Ranking | None:
    """The list of answers of a record; None if there is none with at least two."""
    usual = (*_LISTS, "output", "response") if choice.format == "ranking" else _LISTS
    for name in usual:
        answers = as_list(fields.get(name))
        if answers is not None and len(answers) > 1 and all(isinstance(one, str | Mapping) for one in answers):
            named = (choice.score_field,) if choice.score_field else _SCORE_LISTS
            scores = next((one for one in named if isinstance(as_list(fields.get(one)), list)), None)
            return Ranking(name, scores)
    return None


def score_name(answers: Any, choice: PreferenceChoice) -> str | None:
    """The field with the score or rank of each answer in a list; None if no answer has a number in such a field."""
    given = [answer for answer in as_list(answers) or () if isinstance(answer, Mapping)]
    if choice.score_field:
        return choice.score_field
    for usual in (*SCORES, *RANKS):
        for answer in given:
            for name, value in answer.items():
                if plain_name(name) == usual and number(value) is not None:
                    return str(name)
    return None


def label_in(fields: Mapping[str, Any]) -> str | None:
    """The field that says whether an answer is good; None if there is none."""
    return next((str(name) for usual in _LABELS for name in fields if plain_name(name) == usual), None)


def without_label(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The record without its label: a conversation."""
    label = label_in(fields)
    return {name: value for name, value in fields.items() if name != label}


def as_list(value: Any) -> list[Any] | None:
    """A list, or the list in a JSON text, as in a cell of a table; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = loads(value)
        except ValueError:
            return None
    return list(value) if isinstance(value, list | tuple) else None


def number(value: Any) -> float | None:
    """A finite number, also as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def score_of(fields: Mapping[str, Any], of: Literal["chosen", "rejected"]) -> str | None:
    """The field with the score of the chosen or the rejected answer; None if there is none."""
    usual = [name for word in ("score", "rating", "reward") for name in (f"{word}{of}", f"{of}{word}")]
    return next((str(name) for one in usual for name in fields if plain_name(name) == one), None)


def label_of(value: Any) -> bool | None:
    """Whether a label says that an answer is good; None if that is not clear."""
    if isinstance(value, str) and value.strip().casefold() in _GOOD | _BAD:
        return value.strip().casefold() in _GOOD
    return truth(value, words=True)


_GOOD = frozenset(("good", "desirable", "chosen", "accepted", "up", "thumbs_up"))
_BAD = frozenset(("bad", "undesirable", "rejected", "down", "thumbs_down"))


def number_list(value: Any, count: int) -> Sequence[float | None] | None:
    """The scores in a list of `count` values; None if it has another length."""
    values = as_list(value)
    return None if values is None or len(values) != count else [number(one) for one in values]
