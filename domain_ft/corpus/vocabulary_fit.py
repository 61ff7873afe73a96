"""How well a tokenizer fits a text: the share for which it has no token, and the bytes per token.

All text that a tokenizer does not know becomes the unknown token, from which nothing can be learned.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from domain_ft.corpus.tokens import TokenRows
from domain_ft.errors import CorpusError

WARNED_SHARE = 0.05  # of the tokens or of the bytes, from which on the user is warned
USELESS_SHARE = 0.9  # from which on nothing can be learned
FEWEST_BYTES = 1.5  # per token: below it words are spelled out byte by byte
FEWEST_TOKENS = 32  # known ones, below which there is nothing to learn from


@dataclass(frozen=True)
class VocabularyFit:
    """Statistics of the tokens of a text.

    Attributes:
        unknown_tokens: the share of the tokens that are the unknown one.
        unknown_bytes: the share of the text, in bytes, that they replace.
        bytes_per_token: of text, as UTF-8.
        known_tokens: counted tokens that are not the unknown one.
    """

    unknown_tokens: float
    unknown_bytes: float
    bytes_per_token: float
    known_tokens: int

    @classmethod
    def of(cls, rows: TokenRows, unknown: int | None) -> VocabularyFit:
        """The fit of a tokenizer whose unknown token has the id `unknown`; None where it has none."""
        tokens, text_bytes, unknown_tokens, unknown_bytes = rows.count_token(unknown)
        return cls(
            round(unknown_tokens / max(1, tokens), 4),
            round(unknown_bytes / max(1, text_bytes), 4),
            round(text_bytes / max(1, tokens), 2),
            tokens - unknown_tokens,
        )

    def to_result(self) -> dict[str, Any]:
        """As result.json has it."""
        return asdict(self)

    def check(self, model: str, corpus: str) -> None:
        """Refuse a text that the tokenizer does not know.

        Raises:
            CorpusError: nearly all of the text is unknown.
        """
        if (self.unknown_tokens < USELESS_SHARE and self.unknown_bytes < USELESS_SHARE) or (
            self.unknown_tokens < USELESS_SHARE and self.known_tokens >= FEWEST_TOKENS
        ):
            return
        raise CorpusError(
            f"the tokenizer of {model} does not know this text: {self.unknown_tokens:.0%} of its tokens are the "
            f"unknown one, which replaces {self.unknown_bytes:.0%} of the text ({self.bytes_per_token:,.1f} bytes a "
            "token). Nothing can be learned from it",
            where=corpus,
            fix="check that the files hold words, separated as the language has them, or take a model whose tokenizer "
            "knows the language",
        )

    def warnings(self, model: str) -> list[str]:
        """Warnings for the user, in sentences."""
        if max(self.unknown_tokens, self.unknown_bytes) >= WARNED_SHARE:
            return [
                f"The tokenizer of {model} does not know {self.unknown_bytes:.0%} of the text: "
                f"{self.unknown_tokens:.0%} of the tokens are the unknown one, from which nothing is learned."
            ]
        if self.bytes_per_token < FEWEST_BYTES:
            return [
                f"The tokenizer of {model} spells this text out: a token has {self.bytes_per_token:.1f} bytes. "
                "A model whose tokenizer knows the language learns more from it."
            ]
        return []
