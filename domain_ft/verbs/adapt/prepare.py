"""Prepare text, model and settings for `adapt`, and for `data estimate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from domain_ft.corpus.tokens import TokenRows, tokenize
from domain_ft.corpus.vocabulary_fit import VocabularyFit
from domain_ft.embedded import making
from domain_ft.embedded.loading import load
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.shared.language_model import (
    EVALUATION_TOKENS,
    NO_CONTROL,
    build_objective,
    hold_out,
    prepare_corpora,
    sequence_length,
)
from domain_ft.verbs.shared.machine import Machine
from domain_ft.verbs.shared.text_runs import TextJob, plan_loop, resolve_settings
from domain_ft.verbs.shared.training import LEARNING_RATES, refuse_unusable_rank

if TYPE_CHECKING:
    from domain_ft.corpus.prepared import PreparedCorpus


DEFAULT_TOKENS = 250_000

MANY_EPOCHS = 4
"""Beyond this many epochs, repeated text is worth less than new text (Muennighoff et al. 2023), and the user is warned.
The default --max-tokens may exceed it, because the loss on held-out text still falls on small corpora."""


@dataclass(frozen=True)
class AdaptJob(TextJob):
    """A corpus, read and tokenised, and the model to be adapted to it.

    Attributes:
        corpora: by role (`domain`, `control`); `held_out` has the same roles.
        fit: how well the tokenizer's vocabulary fits the text.
    """

    settings: AdaptSettings
    train_rows: TokenRows
    corpora: Mapping[str, PreparedCorpus]
    fit: VocabularyFit

    @property
    def epochs(self) -> float:
        """The number of epochs of the run."""
        return self.loop.total_steps / self.steps_per_epoch

    @property
    def warnings(self) -> list[str]:
        """Reasons why the run may be less useful than its numbers suggest, in sentences."""
        warnings = self.fit.warnings(self.base.name)
        if self.epochs > MANY_EPOCHS:
            warnings.append(
                f"The run reads the {self.train_rows.tokens:,} tokens of the corpus {self.epochs:.0f} times. Beyond "
                f"{MANY_EPOCHS} times, repeated text teaches less and less: use more text, or a shorter run "
                f"(--epochs {MANY_EPOCHS})."
            )
        return warnings


def set_up(settings: AdaptSettings, machine: Machine, display: ProgressDisplay) -> AdaptJob:
    """Prepare text, model and rows, and resolve the settings that depend on them.

    With several processes, the main process of each node goes first and fills the caches that the others read.

    Raises:
        SettingsError: the processes do not have the same settings, text and model.
    """
    with machine.main_first():
        corpora = prepare_corpora(settings, display)
        base = load(
            settings.model,
            device=machine.device,
            dtype=machine.weights_dtype(settings.method, settings.train_modules),
            progress=display.job,
        )
        refuse_unusable_rank(base.model, settings)
        length = sequence_length(base, settings.max_length)
        train_rows = {
            role: tokenize(prepared.split("train"), base.tokenizer, max_length=length, progress=display.job)
            for role, prepared in corpora.items()
            if role == "domain" or base.head_is_random
        }
        fit = VocabularyFit.of(train_rows["domain"], base.tokenizer.unk_token_id)
        fit.check(base.name, corpora["domain"].name)
        if base.head_is_random:  # fitted on both domain and control, to favour neither
            base = making.with_fitted_head(base, list(train_rows.values()), display.job)
        held_out = {
            role: hold_out(
                prepared, role, base, max_length=length, max_tokens=settings.evaluation_tokens, display=display
            )
            for role, prepared in corpora.items()
        }
    texts = {f"text of the {role}": prepared.key for role, prepared in corpora.items()}
    machine.agree(
        settings.to_dict() | texts | {"tokens": train_rows["domain"].key, "base model": base.revision}, base.model
    )
    objective = build_objective(base, settings, machine.kernels)
    rows = train_rows["domain"]
    budgeted = settings.max_steps is not None or settings.epochs is not None
    micro_batches, loop = plan_loop(
        settings,
        machine,
        base,
        objective,
        rows,
        display,
        max_tokens=None if budgeted else settings.max_tokens or DEFAULT_TOKENS,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate or LEARNING_RATES[settings.method],
    )
    resolved = resolve_settings(settings, machine, length, loop) | {
        "control": settings.control or (corpora["control"].name if "control" in corpora else NO_CONTROL),
        "evaluation_tokens": settings.evaluation_tokens or EVALUATION_TOKENS[base.objective],
    }
    return AdaptJob(
        settings=dataclasses.replace(settings, **resolved),
        machine=machine,
        base=base,
        objective=objective,
        corpora=corpora,
        train_rows=rows,
        held_out=held_out,
        loop=loop,
        micro_batches=micro_batches,
        fit=fit,
    )


def text_facts(job: AdaptJob) -> dict[str, Any]:
    """The keys of result.json about the text: what was not read, the fields that were, epochs and warnings."""
    text = job.corpora["domain"].statistics
    return {
        **text.left_out,
        "text_fields": text.text_fields,
        "tokenizer": job.fit.to_result(),
        "epochs": round(job.epochs, 2),
        "warnings": job.warnings,
    }
