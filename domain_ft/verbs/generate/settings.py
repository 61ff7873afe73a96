"""The settings of `generate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from domain_ft.checking import PASSING, REQUIRED, Range
from domain_ft.verbs.groups import ConversationOptions, MachineOptions, PositiveFloat, PositiveInt, ScreenOptions


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(ConversationOptions, MachineOptions, ScreenOptions, group="Prompts"):
    """Let a decoder write: an answer to a prompt, a conversation in the terminal, or answers to a file of prompts."""

    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt", "input"),)

    model: str = REQUIRED
    """The model: a run folder (its adapter is merged), an embedded name (smollm2), a folder, or a hub id."""

    prompt: str | None = None
    """What is asked. Without it and without --input, a conversation begins."""

    input: str | None = None
    """A file of prompts: what `instruct --data` takes (the last answer is then the reference), a field of JSONL, CSV
    or Parquet, or text with a prompt a line; - is standard input, of JSON lines or a prompt a line."""

    output: Path | None = None
    """The file to write JSON lines to. Standard output where none is given."""

    rejects: Path | None = None
    """Where prompts that cannot be asked are listed with the reason. By default OUTPUT.rejects.jsonl; on standard
    output they stop the reading."""

    id_field: str | None = None
    """The field that names a record of the input. By default one with a usual name, such as id, else its place."""

    raw: bool = False
    """Go on with the prompt as it stands, without a chat template."""

    against: str | None = None
    """A second model that answers the same prompts, to compare: `base` for the one that the run was trained from."""

    max_new_tokens: PositiveInt = 256
    """Tokens of an answer at most. It ends where the model ends its turn."""

    do_sample: bool = False
    """Draw each token at random by its probability; without it the likeliest is taken."""

    temperature: PositiveFloat = 1.0
    """Divides the logits where tokens are drawn: below 1 the likely ones are likelier."""

    top_k: Annotated[int, Range(at_least=0), Range(at_most=10**9)] = 50
    """Draw among so many of the likeliest tokens; 0 for all."""

    top_p: Annotated[float, Range(above=0, at_most=1)] = 1.0
    """Draw among the likeliest tokens that have this probability together."""

    min_p: Annotated[float, Range(at_least=0, at_most=1)] = 0.0
    """Draw among the tokens that are at least so many times as likely as the likeliest."""

    repetition_penalty: PositiveFloat = 1.0
    """Above 1, tokens that stand in the text already are less likely."""

    no_repeat_ngram_size: Annotated[int, Range(at_least=0), Range(at_most=10**9)] = 0
    """No run of so many tokens comes twice; 0 for no such rule."""

    num_beams: PositiveInt = 1
    """Beams that are searched."""

    batch_size: PositiveInt = 8
    """Prompts of a file that are answered at once. In float32 the answers do not depend on it; in bfloat16 its rounding
    may turn one of two tokens that are about as likely into the other."""

    resume: Annotated[bool, PASSING] = False
    """Go on after the last whole line of --output."""
