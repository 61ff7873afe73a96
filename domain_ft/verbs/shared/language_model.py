"""What the verbs that train or score language models share: corpora, held-out text and scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.corpus import Corpus, open_corpus
from domain_ft.corpus.masking import MaskVocabulary
from domain_ft.corpus.overlap import shared_text
from domain_ft.corpus.prepared import PreparedCorpus, prepare
from domain_ft.corpus.rows import DocumentRows
from domain_ft.corpus.tokens import tokenize
from domain_ft.errors import SettingsError
from domain_ft.evaluation.language_model import score
from domain_ft.evaluation.scores import Scores
from domain_ft.models.base import BaseModel
from domain_ft.objectives.base import LanguageModelObjective
from domain_ft.objectives.causal_lm import CausalLM
from domain_ft.objectives.masked_lm import MaskedLM
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.evaluate.settings import EvaluateSettings
from domain_ft.verbs.shared.machine import Machine

NO_CONTROL = "none"
"""`--control none`: do not measure forgetting."""

SAME_TEXT = 0.2
"""A corpus cannot be the control if at least this share of its held-out documents is found in the other corpus."""


ReadsText: TypeAlias = AdaptSettings | EvaluateSettings
"""The settings of a verb that measures a language model's loss on text."""


EVALUATION_TOKENS = {"mlm": 40_000, "clm": 10_000}
"""The default of --evaluation-tokens by objective: larger for a masked LM, because only masked tokens are scored."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out text that a model is scored on.

    Attributes:
        name: the name of the corpus.
        role: `domain`, `control` or `test`.
        rows: the sequences of the corpus's evaluation split, or conversations.
        selected: the indices of the rows that are scored.
    """

    name: str
    role: str
    rows: DocumentRows
    selected: npt.NDArray[np.int64]


def prepare_corpora(settings: ReadsText, display: ProgressDisplay) -> dict[str, PreparedCorpus]:
    """Read, clean, deduplicate and split the corpus and its control.

    --text-field, --encoding and --on-bad-record apply to the corpus only; the control is read with their defaults.

    Returns:
        The corpora by role: `domain`, and `control` if there is one.
    """
    assert settings.corpus is not None  # without one, `evaluate` runs on tasks

    def ready(corpus: Corpus) -> PreparedCorpus:
        return prepare(corpus, evaluation_fraction=settings.evaluation_fraction, progress=display.job)

    domain = ready(
        open_corpus(
            settings.corpus,
            text_field=settings.text_field,
            on_bad_record=settings.on_bad_record,
            encoding=settings.encoding,
        )
    )
    control = _control(settings, domain, ready, display)
    return {"domain": domain} | ({} if control is None else {"control": control})


def _control(
    settings: ReadsText, domain: PreparedCorpus, ready: Callable[[Corpus], PreparedCorpus], display: ProgressDisplay
) -> PreparedCorpus | None:
    """The control corpus: --control, or the first embedded corpus that passes `SAME_TEXT`; None if there is none.

    Raises:
        SettingsError: --control shares text with --corpus.
    """
    if settings.control == NO_CONTROL:
        return None
    if settings.control is not None:
        control = ready(open_corpus(settings.control))
        if shared_text(control, domain) >= SAME_TEXT:
            raise SettingsError(
                f"--control {settings.control} shares text with --corpus {settings.corpus}, so it cannot show "
                "forgetting",
                fix="give a corpus of another field, or --control none",
            )
        return control
    names = ("medical", "legal") if settings.corpus == "legal" else ("legal", "medical")
    for name in names:
        control = ready(open_corpus(name))
        if shared_text(control, domain) < SAME_TEXT:
            return control
        display.say(f"note: '{domain.name}' shares text with the corpus {name}, which therefore cannot be the control")
    return None


def hold_out(
    prepared: PreparedCorpus,
    role: str,
    base: BaseModel,
    *,
    max_length: int,
    max_tokens: int | None,
    display: ProgressDisplay,
) -> HeldOut:
    """The held-out text of `prepared`.

    Args:
        max_length: the maximum number of tokens in a sequence, as `sequence_length` gives it.
        max_tokens: --evaluation-tokens; by default `EVALUATION_TOKENS`.
    """
    rows = tokenize(prepared.split("evaluation"), base.tokenizer, max_length=max_length, progress=display.job)
    return HeldOut(prepared.name, role, rows, rows.select_documents(max_tokens or EVALUATION_TOKENS[base.objective]))


def sequence_length(base: BaseModel, max_length: int) -> int:
    """--max-length, or the model's maximum if that is less."""
    return min(max_length, base.max_length)


def build_objective(base: BaseModel, settings: ReadsText, kernels: str) -> LanguageModelObjective:
    """The objective for the model's architecture."""
    if base.objective == "clm":
        return CausalLM(kernels=kernels)
    return MaskedLM(
        kernels=kernels,
        vocabulary=MaskVocabulary.of(base.tokenizer),
        rate=settings.mask_rate,
        whole_word=settings.whole_word,
        seed=settings.seed,
    )


def score_held_out(
    base: BaseModel,
    objective: LanguageModelObjective,
    held_out: HeldOut,
    machine: Machine,
    *,
    tokens_per_micro_batch: int,
    progress: Callable[[str, int, int | None], None] | None = None,
    label: str = "evaluate",
) -> Scores:
    """The losses of `base` on held-out text, computed in the machine's precision."""
    with machine.accelerator.autocast():
        return score(
            base,
            objective,
            held_out.rows,
            held_out.selected,
            tokens_per_micro_batch=tokens_per_micro_batch,
            accelerator=machine.accelerator,
            progress=progress,
            label=label,
        )
