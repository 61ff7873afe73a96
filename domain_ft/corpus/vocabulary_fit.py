"""How well a tokenizer fits a text: the share of unknown tokens, and the bytes per token.

Text for which a tokenizer has no token becomes the unknown token, from which nothing can be learned.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from domain_ft.corpus.tokens import TokenRows
from domain_ft.errors import CorpusError

WARNED_SHARE = 0.05  # if this share of the tokens or of the bytes is unknown, the user is warned
USELESS_SHARE = 0.9  # a text is refused if this share of its tokens is unknown, or of its bytes if few tokens are known
FEWEST_BYTES = 1.5  # per token: with fewer, words are mostly spelled out byte by byte
FEWEST_TOKENS = 32  # if most bytes are unknown, fewer known tokens than this are too few to learn from


@dataclass(frozen=True)
class VocabularyFit:
    """Statistics of the tokens of a text.

    Attributes:
        unknown_tokens: the share of unknown tokens.
        unknown_bytes: the share of the text, in bytes, that they replace.
        bytes_per_token: UTF-8 bytes of text per token.
        known_tokens: the number of other tokens, among those that were counted.
    """

    unknown_tokens: float
    unknown_bytes: float
    bytes_per_token: float
    known_tokens: int

    @classmethod
    def of(cls, rows: TokenRows, unknown: int | None) -> VocabularyFit:
        """The fit of a tokenizer to its rows. `unknown` is the id of its unknown token, if it has one."""
        tokens, text_bytes, unknown_tokens, unknown_bytes = rows.count_token(unknown)
        return cls(
            round(unknown_tokens / max(1, tokens), 4),
            round(unknown_bytes / max(1, text_bytes), 4),
            round(text_bytes / max(1, tokens), 2),
            tokens - unknown_tokens,
        )

    def to_result(self) -> dict[str, Any]:
        """The values for result.json."""
        return asdict(self)

    def check(self, model: str, corpus: str) -> None:
        """Refuse a text that the tokenizer does not know.

        Raises:
            CorpusError: nearly all tokens are unknown, or nearly all bytes are and few tokens are known.
        """
        enough_known = self.unknown_bytes < USELESS_SHARE or self.known_tokens >= FEWEST_TOKENS
        if self.unknown_tokens < USELESS_SHARE and enough_known:
            return
        raise CorpusError(
            f"the tokenizer of {model} does not know this text: {self.unknown_tokens:.0%} of its tokens are the "
            f"unknown token, which replaces {self.unknown_bytes:.0%} of the text ({self.bytes_per_token:,.1f} bytes a "
            "token). Nothing can be learned from it",
            where=corpus,
            fix="check that the files have words, separated as usual in the language; or use a model whose tokenizer "
            "supports the language",
        )

    def warnings(self, model: str) -> list[str]:
        """Warnings for the user, in sentences."""
        if max(self.unknown_tokens, self.unknown_bytes) >= WARNED_SHARE:
            return [
                f"The tokenizer of {model} does not know {self.unknown_bytes:.0%} of the text: "
                f"{self.unknown_tokens:.0%} of the tokens are the unknown token, from which nothing is learned."
            ]
        if self.bytes_per_token < FEWEST_BYTES:
            return [
                f"The tokenizer of {model} spells this text out: a token has {self.bytes_per_token:.1f} bytes. "
                "A model whose tokenizer supports the language learns more from it."
            ]
        return []
