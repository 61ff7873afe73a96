"""A model for chat: weights, chat template and sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from domain_ft.corpus.conversations.conversation import Turn
from domain_ft.corpus.conversations.rendering import ChatTemplate
from domain_ft.embedded.loading import load
from domain_ft.errors import CorpusError, ModelError
from domain_ft.json_files import read_object, read_result
from domain_ft.models.base import BaseModel
from domain_ft.models.generation import Generated, Sampling, encode_prompts, generate, refuse_encoder
from domain_ft.progress import Progress
from domain_ft.storage import user_path
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.generate.settings import GenerateSettings
from domain_ft.verbs.shared.machine import Machine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class ChatModel:
    """A model that answers prompts.

    Attributes:
        base: the model, with adapters merged.
        template: its chat template; None with --raw.
        sampling: how tokens are chosen.
        batch_size: how many prompts are answered at once.
    """

    base: BaseModel
    template: ChatTemplate | None
    sampling: Sampling
    batch_size: int

    @classmethod
    def load(
        cls, name: str, settings: GenerateSettings, machine: Machine, display: ProgressDisplay, today: date
    ) -> ChatModel:
        """Load a model or a run, and print warnings about it.

        Args:
            today: the date for chat templates that write today's date.

        Raises:
            ModelError: there is no such model, or it is not a decoder.
        """
        base = load(name, device=machine.device, dtype=machine.weights_dtype("lora"), progress=display.job)
        refuse_encoder(base)
        for note in base.notes:
            display.warn(f"{name}: {note}")
        template = None if settings.raw else ChatTemplate.of(base.tokenizer, today)
        return cls(base, template, Sampling.of(settings), settings.batch_size)

    @property
    def name(self) -> str:
        """The model, as the user named it."""
        return self.base.name

    def prompt(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """`turns` as the text that the model continues with its answer.

        Raises:
            CorpusError: the template refuses the turns, or there are several turns but no template.
        """
        if self.template:
            return self.template.prompt(turns, tools)
        if len(turns) > 1:
            raise CorpusError(
                f"--raw continues a single text, but this is a conversation of {len(turns)} turns",
                fix="leave --raw out: the conversation is then rendered with the model's chat template",
            )
        begin = _beginning(self.base.tokenizer)
        return turns[0].content if turns[0].content.startswith(begin) else begin + turns[0].content

    def check(self, prompt: str) -> None:
        """Raise a CorpusError for a prompt that is empty or too long."""
        encode_prompts(self.base, [prompt], self.sampling, [""])

    def answer(
        self,
        prompts: Sequence[str],
        names: Sequence[str],
        *,
        progress: Progress | None = None,
        stream: Callable[[str], None] | None = None,
    ) -> list[Generated]:
        """Answer each prompt; see `models.generation.generate`."""
        end = self.base.tokenizer.eos_token_id
        stop_tokens = self.template.stop_tokens if self.template else () if end is None else (end,)
        return generate(
            self.base,
            prompts,
            self.sampling,
            stop_tokens=stop_tokens,
            names=names,
            batch_size=self.batch_size,
            progress=progress,
            stream=stream,
        )


def _beginning(tokenizer: PreTrainedTokenizerFast) -> str:
    """The token that the tokenizer puts before every text, if any."""
    put: list[int] = tokenizer("")["input_ids"]
    return str(tokenizer.bos_token) if put and put[0] == tokenizer.bos_token_id else ""


def trained_from(name: str) -> str:
    """The model that a run or adapter was trained from, for `--against base`.

    Raises:
        ModelError: `name` is neither a run nor an adapter.
    """
    folder = user_path(name)
    for adapter in (folder / "adapter", folder):
        if (adapter / "adapter_config.json").is_file():
            settings = read_object(
                adapter / "adapter_config.json",
                ModelError,
                kinds={"base_model_name_or_path": str},
                needed=("base_model_name_or_path",),
                fix="name the model to compare it with: --against M",
            )
            return str(settings["base_model_name_or_path"])
    if (folder / "result.json").is_file():
        return str(read_result(folder, needed=("model",))["model"])
    raise ModelError(
        f"--against base: '{name}' is not a run or an adapter, so its base model is not known",
        fix="name the model to compare it with: --against M",
    )
