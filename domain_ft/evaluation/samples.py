"""Sample outputs for the report: a model completes a few held-out sentences, before and after training.

An encoder predicts a masked word; a decoder continues the beginning of a sentence. The sentences are chosen once,
before the first answers:

    sentences = choose_sentences(split, base.tokenizer, "mlm", seed=0)
    before = answer(base, sentences)
    ...                                     # train
    samples = side_by_side(sentences, before, answer(base, sentences))     # JSON values for the report
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from domain_ft.corpus.shuffling import beginning

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from domain_ft.corpus.documents import Document
    from domain_ft.models.base import BaseModel

GUESSES = 5
CONTINUATION_TOKENS = 24

_DOCUMENTS_READ = 300  # enough to find ten sentences, and to tell common words from domain terms
_WINDOW = 6_000  # characters read of each document
_COMMON_WORDS = 60  # the most frequent words of the sample, which are not masked: articles, prepositions
_SENTENCE_BYTES = (45, 200)  # bytes, so that a Chinese sentence may have fewer characters
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)|(?<=[。！？])\s*|\n\s*\n")
_SPACE = "␣"  # shown for a guess that is only white space
_WORD = re.compile(r"[^\W\d_]+")


class Texts(Protocol):
    """What this module needs of a corpus split."""

    def __len__(self) -> int: ...

    def document(self, index: int) -> Document: ...


@dataclass(frozen=True)
class SampleSentence:
    """A sentence for a language model to complete.

    Attributes:
        document: the id of the held-out document that contains the sentence.
        left: the text before the gap; for a decoder the first half of the sentence.
        answer: the document's text in the gap; for a decoder the second half of the sentence.
        right: the text after the gap; empty for a decoder.
    """

    document: str
    left: str
    answer: str
    right: str


@dataclass(frozen=True)
class Guess:
    """An encoder's prediction for the gap, with its probability."""

    text: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """A model's completion of a sentence.

    Attributes:
        guesses: an encoder's best guesses, best first; empty for a decoder.
        answer_probability: an encoder's probability of the true word's first token; None for a decoder.
        answer_rank: the rank of that token, from 1; None for a decoder.
        continuation: a decoder's greedy continuation; empty for an encoder.
    """

    guesses: tuple[Guess, ...] = ()
    answer_probability: float | None = None
    answer_rank: int | None = None
    continuation: str = ""


def choose_sentences(
    split: Texts, tokenizer: PreTrainedTokenizerBase, objective: str, *, seed: int = 0, count: int = 10
) -> list[SampleSentence]:
    """Up to `count` readable sentences of `split`, at most one per document; equal arguments give equal sentences.

    Args:
        objective: `mlm` masks a content word of each sentence, never the same word twice; each word is a single token
            of `tokenizer`. `clm` cuts each sentence in half.
    """
    order = beginning(_DOCUMENTS_READ, len(split), seed, "probes")
    documents = [split.document(int(index)) for index in order]
    if objective == "clm":
        return _first(map(_beginning, documents), count)
    return _choose_masked(documents, tokenizer, count)


def answer(base: BaseModel, sentences: Sequence[SampleSentence]) -> list[Answer]:
    """The completion of each sentence by `base`, whose training mode is restored afterwards."""
    training = base.model.training
    base.model.eval()
    try:
        with torch.no_grad():
            complete = _guess if base.objective == "mlm" else _continue
            return [complete(base, sentence) for sentence in sentences]
    finally:
        base.model.train(training)


def side_by_side(
    sentences: Sequence[SampleSentence], before: Sequence[Answer], after: Sequence[Answer]
) -> list[dict[str, Any]]:
    """For the report, one object per sentence: {"document", "left", "answer", "right", "before": {}, "after": {}}."""
    return [
        {
            "document": sentence.document,
            "left": sentence.left,
            "answer": sentence.answer,
            "right": sentence.right,
            "before": _plain(first),
            "after": _plain(second),
        }
        for sentence, first, second in zip(sentences, before, after, strict=True)
    ]


def _plain(completion: Answer) -> dict[str, Any]:
    return {
        "guesses": [{"text": guess.text, "probability": guess.probability} for guess in completion.guesses],
        "answer_probability": completion.answer_probability,
        "answer_rank": completion.answer_rank,
        "continuation": completion.continuation,
    }


def _first(sentences: Iterator[SampleSentence | None], count: int) -> list[SampleSentence]:
    chosen: list[SampleSentence] = []
    for sentence in sentences:
        if len(chosen) == count:
            break
        if sentence:
            chosen.append(sentence)
    return chosen


def _sentences(text: str) -> Iterator[str]:
    """Readable sentences: of medium length, mostly letters, with few capitals, and ended by punctuation."""
    low, high = _SENTENCE_BYTES
    for part in _SENTENCE_END.split(text[:_WINDOW]):
        sentence = " ".join(part.split())
        letters = sum(character.isalpha() for character in sentence)
        capitals = sum(character.isupper() for character in sentence)
        if (
            low <= len(sentence.encode()) <= high
            and sentence[0].isalpha()
            and letters >= 0.75 * len(sentence)
            and capitals <= 0.2 * letters
            and sentence.endswith((".", "!", "?", "。", "！", "？"))
        ):
            yield sentence


def _choose_masked(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, count: int
) -> list[SampleSentence]:
    """Up to `count` sentences of different documents, with a content word masked in each.

    The word is not one of the most frequent, and preferably occurs in at least two documents.
    """
    seen = collections.Counter(
        word for document in documents for word in set(_words(document.text[:_WINDOW], tokenizer))
    )
    common = {word for word, _ in seen.most_common(min(_COMMON_WORDS, len(seen) // 4))}
    used_up: set[str] = set()  # words and sentences

    def mask_one(document: Document, least: int) -> SampleSentence | None:
        """A sentence of the document, with a masked word that occurs in at least `least` documents."""
        for sentence in _sentences(document.text):
            if sentence in used_up:
                continue
            for start, end in sorted(_spans(sentence, tokenizer), key=lambda span: span[0] - span[1]):
                word = sentence[start:end].casefold()
                if word not in common and word not in used_up and seen[word] >= least:
                    used_up.update((word, sentence))
                    return SampleSentence(document.id, sentence[:start], sentence[start:end], sentence[end:])
        return None

    sentences = _first((mask_one(document, least=2) for document in documents), count)
    used = {sentence.document for sentence in sentences}
    rest = (mask_one(document, least=1) for document in documents if document.id not in used)
    return sentences + _first(rest, count - len(sentences))


def _words(text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    return (text[start:end].casefold() for start, end in _spans(text, tokenizer))


def _spans(text: str, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int]]:
    """The spans of words of two or more letters that are a single token. If there are none: of non-ASCII tokens."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    tokens = {_trimmed(text, start, end) for start, end in encoded["offset_mapping"]}
    words = [match.span() for match in _WORD.finditer(text)]
    whole = [span for span in words if span in tokens and span[1] - span[0] > 1]
    if whole:
        return whole
    return sorted(span for span in tokens if _WORD.fullmatch(text[slice(*span)]) and not text[span[0]].isascii())


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A token's span without white space at its ends: a byte-level or SentencePiece token may begin with a space."""
    token = text[start:end]
    return start + len(token) - len(token.lstrip()), start + len(token.rstrip())


def _beginning(document: Document) -> SampleSentence | None:
    """The first readable sentence, cut at the first space after its middle, or in the middle if there is none."""
    for sentence in _sentences(document.text):
        cut = sentence.find(" ", len(sentence) // 2)
        cut = len(sentence) // 2 if cut < 0 else cut
        return SampleSentence(document.id, sentence[:cut].rstrip(), sentence[cut:].strip(), "")
    return None


def _guess(base: BaseModel, sentence: SampleSentence) -> Answer:
    """An encoder's guesses for the gap. All tokens of the word are masked, and the first of them is predicted."""
    tokenizer = base.tokenizer
    encoded = tokenizer(
        sentence.left + sentence.answer + sentence.right,
        return_offsets_mapping=True,
        return_tensors="pt",
        truncation=True,
        max_length=base.max_length,
    )
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"][0]  # (1, T), (T, 2)
    start, end = len(sentence.left), len(sentence.left) + len(sentence.answer)
    gap = ((offsets[:, 0] < end) & (offsets[:, 1] > start)).nonzero()[:, 0]  # positions of the word's tokens
    true = ids[0, gap[0]].item()
    ids[0, gap] = tokenizer.mask_token_id
    logits = base.model(input_ids=ids.to(base.model.device)).logits[0, gap[0]].float()  # (V,)
    probabilities = logits.softmax(dim=-1)
    best = probabilities.topk(GUESSES)
    return Answer(
        guesses=tuple(
            Guess(tokenizer.decode([token]).strip() or _SPACE, value)
            for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ),
        answer_probability=float(probabilities[true]),
        answer_rank=int((probabilities > probabilities[true]).sum()) + 1,
    )


def _continue(base: BaseModel, sentence: SampleSentence) -> Answer:
    """A decoder's greedy continuation, on one line."""
    tokenizer = base.tokenizer
    ids = tokenizer(sentence.left, return_tensors="pt")["input_ids"].to(base.model.device)
    end = tokenizer.eos_token_id
    written = base.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=CONTINUATION_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end,
    )
    text = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    return Answer(continuation=" ".join(text.split()))
