"""Text from a decoder: rendered prompts go in, answers come out, in batches or, to be watched, token by token.

    answers = generate(base, prompts, Sampling(max_new_tokens=64), stop_tokens=template.stop_tokens)

transformers' own `generate` runs the model. What is ours: an answer depends on its prompt alone, not on what shares its
batch, whether the likeliest tokens are taken or tokens are drawn; and what is streamed is what would be returned. That
holds up to rounding: in float32 it takes a tie to see it, in bfloat16, where likely tokens often tie, it shows.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from domain_ft.errors import CorpusError, ModelError, SettingsError
from domain_ft.models.modes import evaluating
from domain_ft.models.sources import quiet
from domain_ft.progress import Progress
from domain_ft.randomness import derive

if TYPE_CHECKING:
    from typing_extensions import Self

    from domain_ft.models.base import BaseModel

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Sampling:
    """How an answer is chosen, by transformers' names. The values given here are those that change nothing.

    Attributes:
        max_new_tokens: tokens of an answer at most.
        do_sample: draw each token at random; otherwise the likeliest is taken.
        temperature: divides the logits; it and the next three count only where tokens are drawn.
        top_k: draw among so many of the likeliest tokens; 0 for all.
        top_p: draw among the likeliest tokens that have this probability together.
        min_p: draw among tokens at least so many times as likely as the likeliest.
        repetition_penalty: above 1, tokens of the text so far are less likely.
        no_repeat_ngram_size: no run of so many tokens comes twice; 0 for no such rule.
        num_beams: beams that are searched.
        seed: all draws follow from it.

    Raises:
        SettingsError: beams and draws together.
    """

    max_new_tokens: int
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    num_beams: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.do_sample and self.num_beams > 1:
            raise SettingsError(
                f"--do-sample and --num-beams {self.num_beams}: beams are searched for what is likeliest, not drawn",
                fix="leave one of them out",
            )

    @classmethod
    def of(cls, settings: Any) -> Self:
        """Those of a verb's settings, whatever of them it has."""
        return cls(**{own.name: getattr(settings, own.name) for own in fields(cls) if hasattr(settings, own.name)})


@dataclass(frozen=True)
class Generated:
    """An answer.

    Attributes:
        text: without the tokens that end it, and without the beginning of a character that it was cut in.
        tokens: how many the model wrote, the one that ends the turn included.
        stopped: whether the model ended it by itself; otherwise it was cut at max_new_tokens.
        seconds: its share of the time that its batch took.
    """

    text: str
    tokens: int
    stopped: bool
    seconds: float


def generate(
    base: BaseModel,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    stop_tokens: Sequence[int],
    names: Sequence[str] | None = None,
    batch_size: int = 8,
    progress: Progress | None = None,
    stream: Callable[[str], None] | None = None,
) -> list[Generated]:
    """Go on with every prompt; the answers come in the order of the prompts.

    Greedy answers are those of transformers' `generate` for the prompt alone, up to rounding.

    Args:
        prompts: as they are to be read: the text of special tokens in them stands for the tokens, and none are added.
        stop_tokens: ids that end an answer, besides those that the model's generation_config.json names.
        names: what each prompt is called in messages; what is drawn for it follows from its name and the seed. By
            default its number, from 1.
        batch_size: how many go through the model at once.
        progress: told how many are answered.
        stream: told the answer piece by piece, of one prompt alone.

    Raises:
        ModelError: the model is an encoder.
        CorpusError: a prompt is empty, or leaves too little of the context.
    """
    if stream and len(prompts) != 1:
        raise ValueError(f"{len(prompts)} answers cannot be streamed at once")
    refuse_encoder(base)
    names = [str(number) for number in range(1, len(prompts) + 1)] if names is None else names
    encoded = encode_prompts(base, prompts, sampling, names)
    ends = frozenset(stop_tokens) | _own_ends(base.model)
    answers: dict[int, Generated] = {}
    with evaluating(base.model), quiet():
        for batch in _batches([len(tokens) for tokens in encoded], batch_size, even=sampling.no_repeat_ngram_size > 0):
            seeds = [derive(sampling.seed, "generate", names[index]) for index in batch]
            rows = [encoded[index] for index in batch]
            answers.update(zip(batch, _answer(base, rows, sampling, ends, seeds, stream), strict=True))
            if progress:
                progress("generating", len(answers), len(prompts))
    return [answers[index] for index in range(len(prompts))]


def refuse_encoder(base: BaseModel) -> None:
    """Raise a ModelError for a model that cannot write."""
    if base.objective != "clm":
        raise ModelError(
            f"'{base.name}' is an encoder: it fills gaps in a text, and writes none.",
            fix="take a decoder such as smollm2, or a run that was trained from one; an encoder is taught labels, by "
            "`classify` or `tag`",
        )


def encode_prompts(
    base: BaseModel, prompts: Sequence[str], sampling: Sampling, names: Sequence[str]
) -> list[list[int]]:
    """The token ids of each prompt.

    Raises:
        CorpusError: one is empty, or too long for an answer of `max_new_tokens` to follow; `names` say which.
    """
    if not prompts:
        return []
    encoded: list[list[int]] = base.tokenizer(list(prompts), add_special_tokens=False, verbose=False)["input_ids"]
    for tokens, name in zip(encoded, names, strict=True):
        if not tokens:
            raise CorpusError("the prompt is empty", where=name, fix="give some text to go on from")
        if len(tokens) + sampling.max_new_tokens > base.max_length:
            raise CorpusError(
                f"the prompt has {len(tokens):,} tokens, which with {sampling.max_new_tokens:,} of the answer are more "
                f"than the {base.max_length:,} that '{base.name}' takes",
                where=name,
                fix="shorten it, or give a smaller --max-new-tokens",
            )
    return encoded


def _own_ends(model: PreTrainedModel) -> frozenset[int]:
    """The tokens at which the model's authors have it stop."""
    own = model.generation_config.eos_token_id
    return frozenset() if own is None else frozenset([own] if isinstance(own, int) else own)


def _batches(lengths: Sequence[int], size: int, *, even: bool) -> Iterator[list[int]]:
    """Indices in batches of about equal length, the longest first; of exactly equal length where `even`.

    A rule against repeated runs reads the padding as text, so it gets none.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    groups = itertools.groupby(order, key=lengths.__getitem__) if even else [(0, iter(order))]
    for _, group in groups:
        while batch := list(itertools.islice(group, size)):
            yield batch


def _answer(
    base: BaseModel,
    rows: Sequence[list[int]],
    sampling: Sampling,
    ends: frozenset[int],
    seeds: Sequence[int],
    stream: Callable[[str], None] | None,
) -> list[Generated]:
    """The answers of one batch of prompts, each with a seed of its own."""
    began = time.perf_counter()
    tokenizer = base.tokenizer
    padding = next((token for token in (tokenizer.pad_token_id, *sorted(ends)) if token is not None), 0)
    input_ids, mask = _padded_left(rows, padding, base.device)
    streamer = _Streamer(tokenizer, ends, stream) if stream and sampling.num_beams == 1 else None
    written = base.model.generate(
        input_ids=input_ids,
        attention_mask=mask,
        generation_config=GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,  # the draws are ours: the likeliest token after `_Draws` is one that was drawn
            num_beams=sampling.num_beams,
            repetition_penalty=sampling.repetition_penalty,
            no_repeat_ngram_size=sampling.no_repeat_ngram_size,
            eos_token_id=sorted(ends) or None,
            pad_token_id=padding,
        ),
        logits_processor=_draws(sampling, seeds, base.device),
        streamer=streamer,
    )
    seconds = (time.perf_counter() - began) / len(rows)
    answers = []
    for tokens in written[:, input_ids.shape[1] :].tolist():
        length = next((place for place, token in enumerate(tokens) if token in ends), None)
        text = _decode(tokenizer, tokens[:length], cut=length is None)
        answers.append(Generated(text, len(tokens) if length is None else length + 1, length is not None, seconds))
    if stream and not streamer:  # which beam is best shows at the end alone
        stream(answers[0].text)
    return answers


def _padded_left(rows: Sequence[list[int]], padding: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and a mask of the real ones, both (rows, longest) int64: all rows end where their answers begin."""
    longest = max(map(len, rows))
    ids = torch.tensor([[padding] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


# --- Draws ------------------------------------------------------------------------------------------------------------


def _draws(sampling: Sampling, seeds: Sequence[int], device: torch.device) -> LogitsProcessorList:
    """What makes the likeliest token one that was drawn, in transformers' order; nothing where none is to be drawn."""
    if not sampling.do_sample:
        return LogitsProcessorList()
    steps: list[LogitsProcessor] = [TemperatureLogitsWarper(float(sampling.temperature))]
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        steps.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        steps.append(MinPLogitsWarper(sampling.min_p))
    return LogitsProcessorList([*steps, _Draws(seeds, device)])


class _Draws(LogitsProcessor):
    """Adds Gumbel noise to logits: the largest is then a draw from their softmax.

    Each row's noise is of a generator of its own, so that no row's draws depend on the others, as they do where one
    generator serves a batch. Maddison, Tarlow and Minka, A* Sampling (2014), section 2.

    Args:
        seeds: one for each row of a batch.
        device: of the logits.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, V) with noise, -inf where they were."""
        del input_ids
        waiting = torch.empty_like(scores)
        for row, generator in zip(waiting, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores - waiting.clamp_(min=torch.finfo(scores.dtype).tiny).log_()


# --- Text as it comes -------------------------------------------------------------------------------------------------


def _decode(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int], *, cut: bool) -> str:
    """The text of tokens, as it is: some tokenizers would otherwise take spaces away from before full stops.

    Args:
        cut: the last character may not be whole, and is then left out.
    """
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.rstrip(_REPLACEMENT) if cut else text


class TextPieces:
    """Text from tokens that come one by one, each piece handed out once nothing that follows can change it.

    A character may be of several tokens, which mean nothing before the last of them is there.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._skipped = frozenset(tokenizer.all_special_ids)
        self._tokens: list[int] = []
        self._given = ""

    def add(self, token: int) -> str:
        """The text that is settled by one more token; often none."""
        if token in self._skipped:
            return ""
        self._tokens.append(token)
        if _BYTE_PIECE.fullmatch(self._tokenizer.convert_ids_to_tokens(token)):
            return ""  # a byte of a character, all of whose row may yet turn out to be none
        return self._give(_decode(self._tokenizer, self._tokens, cut=True))

    def end(self, *, cut: bool) -> str:
        """The text that was still held back; `cut` where more tokens might have come."""
        return self._give(_decode(self._tokenizer, self._tokens, cut=cut))

    def _give(self, text: str) -> str:
        fresh = text[len(self._given) :]
        self._given += fresh
        return fresh


class _Streamer(BaseStreamer):
    """Hands the tokens that transformers' `generate` tells of on as text."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, ends: frozenset[int], write: Callable[[str], None]) -> None:
        self._pieces = TextPieces(tokenizer)
        self._ends = ends
        self._write = write
        self._stopped = False

    def put(self, value: Tensor) -> None:
        """The prompt (1, tokens), and then each token (1,)."""
        if value.ndim > 1:
            return
        (token,) = value.tolist()
        if token in self._ends:
            self._stopped = True
        elif piece := self._pieces.add(token):
            self._write(piece)

    def end(self) -> None:
        """After the last token."""
        if piece := self._pieces.end(cut=not self._stopped):
            self._write(piece)
