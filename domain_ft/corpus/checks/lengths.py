"""Counts the tokens of records, and finds records that are too long and would be cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from domain_ft.corpus.checks.findings import Finding
from domain_ft.corpus.checks.items import Item
from domain_ft.corpus.checks.statistics import Lengths
from domain_ft.corpus.conversations.conversation import Conversation
from domain_ft.corpus.conversations.rendering import ChatTemplate, Rendered
from domain_ft.corpus.conversations.rows import trained_mask
from domain_ft.corpus.preferences.examples import Example
from domain_ft.corpus.preferences.rows import as_conversation
from domain_ft.errors import CorpusError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast


class TokenLengths:
    """Counts the tokens of records one by one.

    Args:
        tokenizer: the tokenizer of the model.
        max_length: the maximum number of tokens of an example.
        cuts: whether the end of a longer text is cut; otherwise it is split into several sequences, without loss.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int, *, cuts: bool = True) -> None:
        self.max_length, self.cuts = max_length, cuts
        self._tokenizer = tokenizer
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._template: ChatTemplate | None = None
        self._specials = tokenizer.num_special_tokens_to_add()
        self.examples, self.prompts, self.answers = Lengths(), Lengths(), Lengths()
        self.long = self.cut = self.learned_cut = self.dropped = 0

    def add(self, item: Item) -> Iterator[Finding]:
        """Count a record. Yields findings on its length or rendering."""
        if item.conversation is not None:
            yield from self._add_conversation(item.line, item.conversation)
        elif item.examples:
            for example in item.examples:
                yield from self._add_preference(item.line, example)
        elif item.passages and not item.roles:
            tokens = len(self._backend.encode(item.text, add_special_tokens=False).ids) + self._specials
            self.examples.add(tokens)
            if tokens > self.max_length:
                self.long += 1
                if self.cuts:
                    self.cut += tokens - self.max_length
                    beyond = tokens - self.max_length
                    length = f"it has {tokens:,} tokens, {beyond:,} beyond {self.max_length:,}"
                    message = f"{length}: {beyond / tokens:.0%} of it would be cut"
                    yield Finding(item.line, None, "over-long", message)

    def _add_conversation(self, line: int | None, conversation: Conversation) -> Iterator[Finding]:
        try:
            counts = self._masks(conversation)
        except CorpusError as error:
            yield Finding(line, None, "not-renderable", error.what, error=True)
            return
        tokens, learned = (sum(count) for count in zip(*((len(mask), int(mask.sum())) for mask in counts), strict=True))
        kept = sum(int(mask[: self.max_length].sum()) for mask in counts)
        longest = max(map(len, counts))
        self.examples.add(tokens)
        self.answers.add(learned)
        self.prompts.add(tokens - learned)
        if longest <= self.max_length:
            return
        self.long += 1
        self.cut += sum(max(len(mask) - self.max_length, 0) for mask in counts)
        self.learned_cut += learned - kept
        length = f"it has {longest:,} tokens, {longest - self.max_length:,} beyond {self.max_length:,}"
        if kept:
            lost = f"{learned - kept:,} of the {learned:,} tokens of its answers would be cut"
            yield Finding(line, None, "over-long", f"{length}: {lost}")
        else:
            self.dropped += 1
            lost = "none of its answers would be left, so it would not be trained on"
            yield Finding(line, None, "over-long", f"{length}: {lost}", error=True)

    def _add_preference(self, line: int | None, example: Example) -> Iterator[Finding]:
        """Count a prompt with its answers. All answers are cut at their ends, so the prompt is the same for each."""
        try:
            masks = [mask for answer in example.answers for mask in self._masks(as_conversation(example, answer))]
        except CorpusError as error:
            yield Finding(line, None, "not-renderable", error.what, error=True)
            return
        learned = [int(mask.sum()) for mask in masks]
        kept = [int(mask[: self.max_length].sum()) for mask in masks]
        self.examples.add(sum(map(len, masks)))
        self.prompts.add(len(masks[0]) - learned[0])
        for count in learned:
            self.answers.add(count)
        longest = max(map(len, masks))
        if longest <= self.max_length:
            return
        self.long += 1
        self.cut += sum(max(len(mask) - self.max_length, 0) for mask in masks)
        self.learned_cut += sum(learned) - sum(kept)
        length = f"the prompt with the longest answer has {longest:,} tokens, {longest - self.max_length:,} beyond "
        length += f"{self.max_length:,}"
        if min(kept):
            cuts = " and ".join(f"{all_ - left:,} of {all_:,}" for all_, left in zip(learned, kept, strict=True))
            yield Finding(line, None, "over-long", f"{length}: of the answers, {cuts} tokens would be cut")
        else:
            self.dropped += 1
            prompt = f"the prompt alone has {len(masks[0]) - learned[0]:,}"
            lost = f"{prompt}, and an answer would be lost, so it would not be trained on"
            yield Finding(line, None, "over-long", f"{length}: {lost}", error=True)

    def _masks(self, conversation: Conversation) -> list[Any]:
        """For each row of a conversation, (tokens,) bool: see `_count`.

        Raises:
            CorpusError: the template cannot render the conversation.
        """
        if self._template is None:
            self._template = ChatTemplate.of(self._tokenizer)
        return [self._count(row) for row in self._template.render(conversation)]

    def _count(self, row: Rendered) -> Any:
        """(tokens,) bool: True for the tokens to train on. As in `instruct`, the row ends after the last of them."""
        mask = trained_mask(row, self._backend.encode(row.text, add_special_tokens=False))
        trained = np.flatnonzero(mask)
        return mask[: int(trained[-1]) + 1 if len(trained) else 0]

    def statistics(self) -> dict[str, Any]:
        """The distributions of token counts, and the numbers of examples and tokens beyond `max_length`."""
        over = {"max_length": self.max_length, "examples": self.long, "tokens_cut": self.cut}
        if not self.answers.values:
            return {"text_tokens": self.examples.summary(), "over_long": over}
        return {
            "example_tokens": self.examples.summary(),
            "prompt_tokens": self.prompts.summary(),
            "answer_tokens": self.answers.summary(),
            "over_long": {**over, "answer_tokens_cut": self.learned_cut, "dropped": self.dropped},
        }
