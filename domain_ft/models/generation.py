"""Generation of answers from rendered prompts with a decoder, in batches or streamed.

    answers = generate(base, prompts, Sampling(max_new_tokens=64), stop_tokens=template.stop_tokens)

transformers' `generate` runs the model. This module adds two guarantees: an answer does not depend on the rest of its
batch, even with sampling; and streamed text equals returned text. The first holds up to rounding, which can decide
between tokens with almost equal logits. That is rare in float32 and frequent in bfloat16.
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

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Sampling:
    """Decoding options, with transformers' names. The defaults mean greedy decoding.

    Attributes:
        max_new_tokens: the most tokens in an answer.
        do_sample: sample each token; otherwise take the likeliest.
        temperature: divides the logits. This and the next three matter only with `do_sample`.
        top_k: sample among this many of the likeliest tokens; 0 for all.
        top_p: sample among the fewest tokens whose probabilities add up to at least this.
        min_p: sample among tokens whose probability is at least this share of the likeliest token's.
        repetition_penalty: above 1, tokens that occur in the prompt or the answer become less likely.
        no_repeat_ngram_size: the answer repeats no n-gram of this size, its own or the prompt's; 0 for no such rule.
        num_beams: number of beams of a beam search; 1 for none.
        seed: with the names of the prompts, determines all samples.

    Raises:
        SettingsError: `do_sample` and several beams.
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
                f"--do-sample and --num-beams {self.num_beams}: a beam search does not sample",
                fix="leave one of them out",
            )

    @classmethod
    def of(cls, settings: Any) -> Self:
        """The decoding options in a verb's settings, with defaults for those that the settings lack."""
        return cls(
            **{option.name: getattr(settings, option.name) for option in fields(cls) if hasattr(settings, option.name)}
        )


@dataclass(frozen=True)
class Generated:
    """An answer.

    Attributes:
        text: without special tokens, and without a last character that was cut in the middle.
        tokens: how many the model generated, including the token that ended the answer.
        stopped: whether the model ended the answer; otherwise it was cut at max_new_tokens.
        seconds: the time of its batch, divided by the number of answers in the batch.
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
    """Generate an answer to each prompt, in the order of the prompts.

    Greedy answers equal those of transformers' `generate` for the prompt alone, up to rounding.

    Args:
        prompts: rendered with the chat template, or plain texts. Special tokens in them are recognised, and none are
            added.
        stop_tokens: ids that end an answer, besides those in the model's `generation_config`.
        names: names of the prompts, for messages; by default the numbers from 1. A prompt's name and the
            seed of `sampling` determine its random numbers.
        batch_size: prompts per batch.
        progress: called with ("generating", answers, prompts).
        stream: called with each new part of the answer; only for a single prompt.

    Raises:
        ModelError: the model is an encoder.
        CorpusError: a prompt is empty, or too long for an answer of `max_new_tokens`.
        ValueError: `stream` is given, and there is not exactly one prompt.
    """
    if stream and len(prompts) != 1:
        raise ValueError(f"only one answer can be streamed at a time, not {len(prompts)}")
    refuse_encoder(base)
    names = [str(number) for number in range(1, len(prompts) + 1)] if names is None else names
    encoded = encode_prompts(base, prompts, sampling, names)
    ends = frozenset(stop_tokens) | _eos_tokens(base.model)
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
    """Raise a ModelError for a model that cannot generate text."""
    if base.objective != "clm":
        raise ModelError(
            f"'{base.name}' is an encoder, which cannot generate text.",
            fix="use a decoder such as smollm2, or a run that was trained from one; train an encoder with `classify` "
            "or `tag`",
        )


def encode_prompts(
    base: BaseModel, prompts: Sequence[str], sampling: Sampling, names: Sequence[str]
) -> list[list[int]]:
    """The token ids of each prompt.

    Raises:
        CorpusError: a prompt is empty, or too long for an answer of `max_new_tokens`. The error names the prompt.
    """
    if not prompts:
        return []
    encoded: list[list[int]] = base.tokenizer(list(prompts), add_special_tokens=False, verbose=False)["input_ids"]
    for tokens, name in zip(encoded, names, strict=True):
        if not tokens:
            raise CorpusError("the prompt is empty", where=name, fix="give some text to continue")
        if len(tokens) + sampling.max_new_tokens > base.max_length:
            raise CorpusError(
                f"the prompt has {len(tokens):,} tokens and the answer may have {sampling.max_new_tokens:,}: together "
                f"more than the limit of '{base.name}', {base.max_length:,}",
                where=name,
                fix="shorten the prompt, or give a smaller --max-new-tokens",
            )
    return encoded


def _eos_tokens(model: PreTrainedModel) -> frozenset[int]:
    """The end tokens in the model's `generation_config`."""
    ids = model.generation_config.eos_token_id
    return frozenset() if ids is None else frozenset([ids] if isinstance(ids, int) else ids)


def _batches(lengths: Sequence[int], size: int, *, even: bool) -> Iterator[list[int]]:
    """The indices of the prompts in batches, the longest prompts first.

    The prompts of a batch have about the same length, or exactly the same if `even`. The rule against repeated n-grams
    would count padding as text, so it needs equal lengths.
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
    """The answers to one batch of prompts, with one seed for each."""
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
            do_sample=False,  # `_GumbelNoise` makes the likeliest token a sample
            num_beams=sampling.num_beams,
            repetition_penalty=sampling.repetition_penalty,
            no_repeat_ngram_size=sampling.no_repeat_ngram_size,
            eos_token_id=sorted(ends) or None,
            pad_token_id=padding,
        ),
        logits_processor=_samplers(sampling, seeds, base.device),
        streamer=streamer,
    )  # (B, prompt + new)
    seconds = (time.perf_counter() - began) / len(rows)
    answers = []
    for tokens in written[:, input_ids.shape[1] :].tolist():
        length = next((place for place, token in enumerate(tokens) if token in ends), None)
        text = _decode(tokenizer, tokens[:length], cut=length is None)
        answers.append(Generated(text, len(tokens) if length is None else length + 1, length is not None, seconds))
    if stream and not streamer:  # the best beam is only known at the end
        stream(answers[0].text)
    return answers


def _padded_left(rows: Sequence[list[int]], padding: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids, and a mask that is 0 for padding, (B, longest) int64 each. Padding is on the left: answers follow."""
    longest = max(map(len, rows))
    ids = torch.tensor([[padding] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


# --- Sampling ---------------------------------------------------------------------------------------------------------


def _samplers(sampling: Sampling, seeds: Sequence[int], device: torch.device) -> LogitsProcessorList:
    """Processors, in transformers' order, after which the likeliest token is a sample; empty for greedy decoding."""
    if not sampling.do_sample:
        return LogitsProcessorList()
    steps: list[LogitsProcessor] = [TemperatureLogitsWarper(float(sampling.temperature))]
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        steps.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        steps.append(MinPLogitsWarper(sampling.min_p))
    return LogitsProcessorList([*steps, _GumbelNoise(seeds, device)])


class _GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise to logits: the token with the largest sum is then a sample from their softmax.

    Maddison, Tarlow and Minka, A* Sampling (2014), section 2. Each row has its own generator, so that its samples do
    not depend on the rest of the batch.

    Args:
        seeds: one for each row of the batch.
        device: of the logits.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) with noise; -inf stays -inf."""
        del input_ids
        exponential = torch.empty_like(scores)  # (B, V); -log of an exponential variable is Gumbel noise
        for row, generator in zip(exponential, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores - exponential.clamp_(min=torch.finfo(scores.dtype).tiny).log_()


# --- Streaming --------------------------------------------------------------------------------------------------------


def _decode(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int], *, cut: bool) -> str:
    """The text of tokens, without the clean-up in which some tokenizers delete spaces before full stops.

    Args:
        cut: drop the last character if it is incomplete.
    """
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.rstrip(_REPLACEMENT) if cut else text


class TextStream:
    """Decodes tokens one by one, and returns text once no later token can change it.

    A character may consist of several tokens, and is known only with the last of them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._skipped = frozenset(tokenizer.all_special_ids)
        self._tokens: list[int] = []
        self._returned = ""

    def add(self, token: int) -> str:
        """The text that becomes final with this token; may be empty."""
        if token in self._skipped:
            return ""
        self._tokens.append(token)
        if _BYTE_TOKEN.fullmatch(self._tokenizer.convert_ids_to_tokens(token)):
            return ""  # a single byte; the next ones decide whether the sequence is valid UTF-8
        return self._new_text(_decode(self._tokenizer, self._tokens, cut=True))

    def end(self, *, cut: bool) -> str:
        """The remaining text; `cut` if the answer was cut off, so that its last character may be incomplete."""
        return self._new_text(_decode(self._tokenizer, self._tokens, cut=cut))

    def _new_text(self, text: str) -> str:
        new = text[len(self._returned) :]
        self._returned += new
        return new


class _Streamer(BaseStreamer):
    """Writes the tokens of transformers' `generate` as text."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, ends: frozenset[int], write: Callable[[str], None]) -> None:
        self._text = TextStream(tokenizer)
        self._ends = ends
        self._write = write
        self._stopped = False

    def put(self, value: Tensor) -> None:
        """Called with the prompt (1, T) first, and then with each token (1,)."""
        if value.ndim > 1:
            return
        (token,) = value.tolist()
        if token in self._ends:
            self._stopped = True
        elif text := self._text.add(token):
            self._write(text)

    def end(self) -> None:
        """Called after the last token."""
        if text := self._text.end(cut=not self._stopped):
            self._write(text)
