"""Prepare text, model and settings for `adapt`, and for `data estimate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from domain_ft.corpus.pairs import PairRows, pair_rows
from domain_ft.corpus.rows import DocumentRows
from domain_ft.corpus.tokens import TokenRows, tokenize
from domain_ft.corpus.vocabulary_fit import VocabularyFit
from domain_ft.embedded import making
from domain_ft.embedded.loading import load
from domain_ft.errors import SettingsError
from domain_ft.models.base import BaseModel
from domain_ft.objectives.base import LanguageModelObjective
from domain_ft.objectives.contrastive import Contrastive
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt.probing import ProbedTask, probed_task
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

CONTRASTIVE = "contrastive"
"""The --objective that trains sentence vectors."""

TOKENS_PER_STEP = {False: 4096, True: 16_384}
"""The default of --tokens-per-step, by whether sentence vectors are trained."""

CONTRASTIVE_DEFAULTS = {"temperature": 0.05, "word_weight": 0.3}

MANY_EPOCHS = 4
"""Beyond this many epochs, repeated text is worth less than new text (Muennighoff et al. 2023), and the user is warned.
On a small corpus the default --max-tokens amounts to more epochs, in which the held-out loss can still fall.
"""


@dataclass(frozen=True)
class AdaptJob(TextJob):
    """A corpus, read and tokenised, and the model to be adapted to it.

    Attributes:
        text_rows: the sequences of the training text. `train_rows` are the same, or pairs cut from them.
        language_model: the masked or causal LM loss that held-out text is scored with.
        corpora: by role (`domain`, `control`); `held_out` has the same roles.
        held_out_pairs: for contrastive training, the pairs that retrieval is measured on.
        task: the task of --task, whose score is measured before and after.
        fit: how well the tokenizer's vocabulary fits the text.
        repeats: whether the text is read many times on purpose, so that this is no reason for a warning.
    """

    settings: AdaptSettings
    train_rows: TokenRows | PairRows
    text_rows: TokenRows
    language_model: LanguageModelObjective
    corpora: Mapping[str, PreparedCorpus]
    fit: VocabularyFit
    held_out_pairs: PairRows | None = None
    task: ProbedTask | None = None
    repeats: bool = False

    def objective_of(self, role: str) -> LanguageModelObjective:  # noqa: ARG002  (the same loss for every role)
        """The loss on the held-out text of a role."""
        return self.language_model

    @property
    def epochs(self) -> float:
        """The number of epochs of the run."""
        return self.loop.total_steps / self.steps_per_epoch

    @property
    def warnings(self) -> list[str]:
        """Reasons why the run may be less useful than its numbers suggest, in sentences."""
        warnings = self.fit.warnings(self.base.name)
        if self.epochs > MANY_EPOCHS and not self.repeats:
            warnings.append(
                f"The run reads the {self.text_rows.tokens:,} tokens of the corpus {self.epochs:.0f} times. Beyond "
                f"{MANY_EPOCHS} times, repeated text teaches less and less: use more text, or a shorter run "
                f"(--epochs {MANY_EPOCHS})."
            )
        return warnings


def set_up(
    settings: AdaptSettings, machine: Machine, display: ProgressDisplay, *, most_epochs: float | None = None
) -> AdaptJob:
    """Prepare text, model and rows, and resolve the settings that depend on them.

    With several processes, the main process of each node goes first and fills the caches that the others read.

    Args:
        most_epochs: the most epochs that --max-tokens may amount to, for a run that repeats a small text on purpose.
            None for no limit, but a warning beyond MANY_EPOCHS.

    Raises:
        UserError: the text, the model or the settings cannot be used, or the processes differ in them.
    """
    settings = with_objective_defaults(settings)
    with machine.main_first():
        corpora = prepare_corpora(settings, display)
        base = load(
            settings.model,
            device=machine.device,
            dtype=machine.weights_dtype(settings.method, settings.train_modules),
            progress=display.job,
        )
        refuse_unusable_rank(base.model, settings)
        refuse_objective(base, settings)
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
        rows = train_rows["domain"]
        task = probed_task(settings, corpora, base, length, display)
        pairs = _pairs(settings, corpora["domain"], rows, held_out["domain"].rows, display)
    texts = {f"text of the {role}": prepared.key for role, prepared in corpora.items()}
    if task:
        texts["task"] = task.probe.data.key
    machine.agree(
        settings.to_dict() | texts | {"tokens": train_rows["domain"].key, "base model": base.revision}, base.model
    )
    language_model = build_objective(base, settings, machine.kernels)
    objective = training_objective(settings, base, language_model)
    max_tokens = settings.max_tokens or DEFAULT_TOKENS
    if most_epochs is not None:
        max_tokens = int(min(max_tokens, most_epochs * rows.tokens))
    budgeted = settings.max_steps is not None or settings.epochs is not None
    micro_batches, loop = plan_loop(
        settings,
        machine,
        base,
        objective,
        pairs[0] if pairs else rows,
        display,
        max_tokens=None if budgeted else max_tokens,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate or LEARNING_RATES[settings.method],
    )
    resolved = resolve_settings(settings, machine, length, loop) | {
        "objective": objective.name,
        "control": settings.control or (corpora["control"].name if "control" in corpora else NO_CONTROL),
        "evaluation_tokens": settings.evaluation_tokens or EVALUATION_TOKENS[base.objective],
    }
    return AdaptJob(
        settings=dataclasses.replace(settings, **resolved),
        machine=machine,
        base=base,
        objective=objective,
        corpora=corpora,
        train_rows=pairs[0] if pairs else rows,
        text_rows=rows,
        language_model=language_model,
        held_out_pairs=pairs[1] if pairs else None,
        task=task,
        held_out=held_out,
        loop=loop,
        micro_batches=micro_batches,
        fit=fit,
        repeats=most_epochs is not None,
    )


def with_objective_defaults(settings: AdaptSettings) -> AdaptSettings:
    """The settings with the defaults that depend on --objective.

    Raises:
        SettingsError: an option of contrastive training is given for another objective.
    """
    contrastive = settings.objective == CONTRASTIVE
    given = [name for name in ("temperature", "word_weight", "dimensions") if getattr(settings, name) is not None]
    if given and not contrastive:
        raise SettingsError(
            f"--{given[0].replace('_', '-')} is for --objective {CONTRASTIVE} only",
            fix=f"leave it out, or add --objective {CONTRASTIVE}",
        )
    defaults = {"tokens_per_step": TOKENS_PER_STEP[contrastive]} | (CONTRASTIVE_DEFAULTS if contrastive else {})
    unset: dict[str, Any] = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    return dataclasses.replace(settings, **unset)


def refuse_objective(base: BaseModel, settings: AdaptSettings) -> None:
    """Refuse an --objective that the model cannot be trained with.

    Raises:
        SettingsError: the objective is for decoders and the model is an encoder, or the reverse; or --objective
            contrastive is given with sharded weights, or with a length in --dimensions beyond that of the model's
            vectors.
    """
    if settings.objective not in ("auto", CONTRASTIVE, base.objective):
        kinds = {"mlm": "an encoder", "clm": "a decoder"}
        raise SettingsError(
            f"--objective {settings.objective} is for {kinds[settings.objective]}, and {base.name} is "
            f"{kinds[base.objective]}",
            fix="leave --objective out",
        )
    if settings.objective != CONTRASTIVE:
        return
    if settings.sharding != "none":
        raise SettingsError(
            "--objective contrastive computes each step twice, which is not supported with sharded weights",
            fix="leave --sharding out: each process then keeps the whole model",
        )
    widest, size = max(vector_dimensions(settings), default=0), base.model.config.hidden_size
    if widest > size:
        raise SettingsError(
            f"--dimensions {settings.dimensions}: the vectors of {base.name} have {size} dimensions, not {widest}",
            fix=f"give at most {size}",
        )


def vector_dimensions(settings: AdaptSettings) -> tuple[int, ...]:
    """--dimensions as numbers; empty for whole vectors only."""
    return tuple(int(part) for part in settings.dimensions.split(",")) if settings.dimensions else ()


def training_objective(
    settings: AdaptSettings, base: BaseModel, language_model: LanguageModelObjective
) -> LanguageModelObjective | Contrastive:
    """The objective of the language model, or the contrastive objective, which includes it."""
    if settings.objective != CONTRASTIVE:
        return language_model
    assert settings.word_weight is not None
    assert settings.temperature is not None
    return Contrastive(
        language_model=language_model,
        weight=settings.word_weight,
        temperature=settings.temperature,
        pooling=base.pooling,
        dimensions=vector_dimensions(settings),
    )


def _pairs(
    settings: AdaptSettings,
    corpus: PreparedCorpus,
    train: TokenRows,
    held_out: DocumentRows,
    display: ProgressDisplay,
) -> tuple[PairRows, PairRows] | None:
    """The pairs of the training text and of the held-out text; None if no sentence vectors are trained."""
    if settings.objective != CONTRASTIVE:
        return None
    assert isinstance(held_out, TokenRows)
    return (
        pair_rows(corpus.split("train"), train, display.job),
        pair_rows(corpus.split("evaluation"), held_out, display.job, name="the held-out text"),
    )


def text_facts(job: AdaptJob) -> dict[str, Any]:
    """The keys of result.json about the text: what was read and left out, the tokenizer's fit, epochs and warnings."""
    text = job.corpora["domain"].statistics
    return {
        **text.left_out,
        "text_fields": text.text_fields,
        "tokenizer": job.fit.to_result(),
        "epochs": round(job.epochs, 2),
        "warnings": job.warnings,
    }
