"""What `adapt` needs before its first step: text, model and resolved settings. `data estimate` does too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from domain_ft.corpus.packing import StepPlan
from domain_ft.corpus.tokens import TokenRows, tokenize
from domain_ft.corpus.vocabulary_fit import VocabularyFit
from domain_ft.embedded import making
from domain_ft.embedded.loading import load
from domain_ft.training.loop import count_steps
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
from domain_ft.verbs.shared.text_runs import (
    CURVE_POINTS,
    TextJob,
    resolve_settings,
)
from domain_ft.verbs.shared.training import choose_micro_batches, loop_settings, refuse_unusable_rank, trainable_for_now

if TYPE_CHECKING:
    from domain_ft.corpus.prepared import PreparedCorpus


DEFAULT_TOKENS = 250_000


MANY_EPOCHS = 4
"""Times that a text is read, beyond which each time teaches less than new text would (Muennighoff et al. 2023). The
default budget is not cut to it: small corpora gain from reading on, as the curve of held-out text shows. It is said."""


@dataclass(frozen=True)
class AdaptJob(TextJob):
    """A corpus, read and encoded, and the model that is adapted to it.

    Attributes:
        corpora: by role (`domain`, `control`), prepared; `held_out` has the same roles.
        fit: how well the tokenizer knows the text.
    """

    settings: AdaptSettings
    train_rows: TokenRows
    corpora: Mapping[str, PreparedCorpus]
    fit: VocabularyFit

    @property
    def epochs(self) -> float:
        """How many times the run reads the training text."""
        return self.loop.total_steps / self.steps_per_epoch

    @property
    def warnings(self) -> list[str]:
        """What makes the run worth less than its numbers say, in sentences."""
        found = self.fit.warnings(self.base.name)
        if self.epochs > MANY_EPOCHS:
            found.append(
                f"The run reads the {self.train_rows.tokens:,} tokens of the corpus {self.epochs:.0f} times. Text that "
                f"is read more than {MANY_EPOCHS} times teaches less and less: give more text, or a shorter run "
                f"(--epochs {MANY_EPOCHS})."
            )
        return found


def set_up(settings: AdaptSettings, machine: Machine, display: ProgressDisplay) -> AdaptJob:
    """Prepare text, model and rows, and settle every setting that depends on them.

    With several processes the main one of each node goes first and fills the caches that the others then read.

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
        if base.head_is_random:  # fitted on both, to be fair to both
            base = making.with_fitted_head(base, list(train_rows.values()), display.job)
        held_out = {
            role: hold_out(
                prepared, role, base, max_length=length, max_tokens=settings.evaluation_tokens, display=display
            )
            for role, prepared in corpora.items()
        }
    read = {f"text of the {role}": prepared.key for role, prepared in corpora.items()}
    machine.agree(
        settings.to_dict() | read | {"tokens": train_rows["domain"].key, "base model": base.revision}, base.model
    )
    objective = build_objective(base, settings, machine.kernels)
    rows = train_rows["domain"]
    with trainable_for_now(base.model, settings, machine.kernels):
        step_tokens = settings.tokens_per_step
        micro_batches = choose_micro_batches(base, objective, rows, settings, machine, display, step_tokens=step_tokens)
    budgeted = settings.max_steps is not None or settings.epochs is not None
    total_steps = count_steps(
        StepPlan(rows.lengths, settings.tokens_per_step, settings.seed),
        rows.tokens,
        max_tokens=None if budgeted else settings.max_tokens or DEFAULT_TOKENS,
        max_steps=settings.max_steps,
        epochs=settings.epochs,
    )
    evaluate_every = settings.evaluate_every or max(1, total_steps // CURVE_POINTS)
    loop = loop_settings(settings, micro_batches, total_steps=total_steps, evaluate_every=evaluate_every)
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
    """What result.json says of the text: what was not read of it, which fields were, and what is odd about it."""
    text = job.corpora["domain"].statistics
    return {
        **text.left_out,
        "text_fields": text.text_fields,
        "tokenizer": job.fit.to_result(),
        "epochs": round(job.epochs, 2),
        "warnings": job.warnings,
    }
