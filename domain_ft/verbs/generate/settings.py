"""The settings of `generate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from domain_ft.checking import PASSING, REQUIRED, Range
from domain_ft.verbs.groups import ConversationOptions, MachineOptions, PositiveFloat, PositiveInt, ScreenOptions


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(ConversationOptions, MachineOptions, ScreenOptions, group="Prompts"):
    """Generate text with a decoder: the answer to a prompt, a conversation in the terminal, or answers to a file of
    prompts."""

    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt", "input"),)

    model: str = REQUIRED
    """The model: a run folder (its adapter is merged), an embedded name (smollm2), a folder, or a Hub id."""

    prompt: str | None = None
    """The prompt. Without --prompt and --input, a conversation starts in the terminal."""

    input: str | None = None
    """A file of prompts: a file for `instruct --data` (an answer at the end of a conversation becomes the reference), a
    field of a JSONL, CSV or Parquet file, or a text file with one prompt a line. - reads JSON lines, or one prompt a
    line, from standard input."""

    output: Path | None = None
    """The file for the answers, in JSON lines. By default standard output."""

    rejects: Path | None = None
    """The file that lists unusable prompts and why. By default OUTPUT.rejects.jsonl; with standard output, the
    first such prompt stops the run."""

    id_field: str | None = None
    """The field that names a record of the input. By default one with a common name, such as id, or else the
    record's position."""

    raw: bool = False
    """Continue the prompt as it is, without a chat template."""

    against: str | None = None
    """A second model that answers the same prompts, for comparison; `base` is the model that the run was trained
    from."""

    max_new_tokens: PositiveInt = 256
    """The maximum number of tokens in an answer, which ends earlier if the model ends its turn."""

    do_sample: bool = False
    """Sample tokens at random; by default the most likely token is taken."""

    temperature: PositiveFloat = 1.0
    """The sampling temperature: below 1, likely tokens become even likelier."""

    top_k: Annotated[int, Range(at_least=0), Range(at_most=10**9)] = 50
    """Sample from this many of the most likely tokens; 0 for all."""

    top_p: Annotated[float, Range(above=0, at_most=1)] = 1.0
    """Sample from the most likely tokens whose probabilities add up to this value."""

    min_p: Annotated[float, Range(at_least=0, at_most=1)] = 0.0
    """Sample only from tokens whose probability is at least this fraction of the highest."""

    repetition_penalty: PositiveFloat = 1.0
    """Values above 1 make tokens that are already in the text less likely."""

    no_repeat_ngram_size: Annotated[int, Range(at_least=0), Range(at_most=10**9)] = 0
    """Never repeat a sequence of this many tokens; 0 turns this off."""

    num_beams: PositiveInt = 1
    """The number of beams in beam search."""

    batch_size: PositiveInt = 8
    """Prompts of a file that are answered at once. The answers do not depend on it, except that rounding may swap two
    tokens that are about equally likely: seldom in float32, often in bfloat16."""

    resume: Annotated[bool, PASSING] = False
    """Continue after the last complete line of --output."""
