"""Prepare data, model and settings for `prefer`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from domain_ft.corpus.conversations.rendering import ChatTemplate
from domain_ft.corpus.conversations.rows import Dropped
from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.preferences.examples import Example, RatedExample
from domain_ft.corpus.preferences.reading import PreferenceData, PreferenceSource, open_preferences
from domain_ft.corpus.preferences.rows import PreferenceRows, encode_preferences
from domain_ft.corpus.prepared import PreparedCorpus, prepare
from domain_ft.corpus.readers.base import Reject
from domain_ft.embedded.loading import load
from domain_ft.errors import SettingsError
from domain_ft.models.base import BaseModel
from domain_ft.models.generation import refuse_encoder
from domain_ft.objectives.base import LanguageModelObjective
from domain_ft.objectives.causal_lm import CausalLM
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.prefer.losses import PreferenceObjective, loss_options, objective_of
from domain_ft.verbs.prefer.settings import PreferSettings
from domain_ft.verbs.shared.answering import Candidate, Question, control_of, day_of, draw_questions
from domain_ft.verbs.shared.language_model import NO_CONTROL, hold_out, sequence_length
from domain_ft.verbs.shared.machine import Machine
from domain_ft.verbs.shared.text_runs import TextJob, plan_loop, resolve_settings

EPOCHS = 3.0

LEARNING_RATES = {"lora": 2e-4, "dora": 2e-4, "full": 5e-6}

CONTROL_FRACTION = 0.05  # the share of the control corpus that is held out, as by default in `adapt`


@dataclass(frozen=True)
class PreferJob(TextJob):
    """Preferences, rendered and tokenised, and the model to be trained on them.

    Attributes:
        objective: without the reference, which `run` adds.
        data: the preferences.
        template: renders them.
        rejects: records that cannot be used, and examples that the template cannot render.
        test_rows: the held-out preferences, and `test_prompts` (rows,) which of them have the same prompt.
        selected: the test rows that are measured.
        control: the corpus that forgetting is measured on, if any; then `held_out` has the role `control`.
        questions: the test prompts that both models answer.
    """

    settings: PreferSettings
    objective: PreferenceObjective
    train_rows: PreferenceRows
    data: PreferenceData
    template: ChatTemplate
    rejects: Sequence[Reject]
    test_rows: PreferenceRows
    test_prompts: npt.NDArray[np.int64]
    selected: npt.NDArray[np.int64]
    control: PreparedCorpus | None
    questions: Sequence[Question]

    def objective_of(self, role: str) -> LanguageModelObjective:  # noqa: ARG002  (only the control has one)
        """The loss on the control corpus: of all its tokens."""
        return CausalLM(kernels=self.machine.kernels)

    @property
    def test_objective(self) -> PreferenceObjective:
        """The objective of the test rows, without a reference."""
        return objective_of(self.settings, self.machine.kernels, None, self.test_rows.desirable)

    @property
    def dropped(self) -> Sequence[Dropped]:
        """Examples that lose an answer within --max-length."""
        return (*self.train_rows.dropped, *self.test_rows.dropped)

    @property
    def all_rejects(self) -> Sequence[Reject]:
        """The lines of rejects.jsonl: each record that is left out of training and measurement, with the reason."""
        return (*self.rejects, *(one.reject for one in self.dropped))

    @property
    def left_out(self) -> LeftOut:
        """What was not read, for result.json."""
        return LeftOut(records=len(self.all_rejects), fields=self.data.left_out.fields)

    @property
    def cut(self) -> int:
        """How many training examples have an answer whose end is cut."""
        return int(self.train_rows.cut.sum())


def set_up(settings: PreferSettings, machine: Machine, display: ProgressDisplay) -> PreferJob:
    """Read the preferences, load the model, and resolve the settings that depend on them.

    Raises:
        UserError: the data, the model or the settings cannot be used, or the processes differ in them.
    """
    options = loss_options(settings)
    rejects: list[Reject] = []
    display.say(f"reading {settings.data}")
    with machine.main_first():
        data = open_preferences(PreferenceSource.of(settings), rejects=rejects.append, progress=display.job)
        refuse_other_kind(settings, data)
        dtype = machine.weights_dtype(settings.method, settings.train_modules)
        base = load(settings.model, device=machine.device, dtype=dtype, progress=display.job)
        refuse_encoder(base)
        today = day_of(settings)
        template = ChatTemplate.of(base.tokenizer, today)
        length = sequence_length(base, settings.max_length)
        train_rows, test_rows = (
            encode_preferences(
                examples,
                base.tokenizer,
                template,
                max_length=length,
                rejects=rejects.append if settings.on_bad_record == "skip" else None,
                progress=display.job,
            )
            for examples in (data.train, data.test)
        )
        control = control_of(settings)
        prepared = (
            prepare(open_corpus(control), evaluation_fraction=CONTROL_FRACTION, progress=display.job)
            if control
            else None
        )
        held_out = {}
        if prepared:
            held_out["control"] = hold_out(
                prepared,
                "control",
                base,
                max_length=length,
                max_tokens=settings.evaluation_tokens,
                display=display,
            )
    machine.agree(
        settings.to_dict() | {"preferences": data.key, "tokens": train_rows.key, "base model": base.revision},
        base.model,
    )
    objective = objective_of(settings, machine.kernels, None, train_rows.desirable)
    budgeted = settings.max_steps is not None or settings.max_tokens is not None
    micro_batches, loop = plan_loop(
        settings,
        machine,
        base,
        objective,
        train_rows,
        display,
        max_tokens=settings.max_tokens,
        epochs=None if budgeted else settings.epochs or EPOCHS,
        learning_rate=settings.learning_rate or LEARNING_RATES[settings.method],
    )
    resolved = resolve_settings(settings, machine, length, loop) | options
    resolved |= {
        "control": control or NO_CONTROL,
        "template_date": today.isoformat() if template.writes_date else settings.template_date,
    }
    kept = [data.test[index] for index in test_rows.documents]
    return PreferJob(
        settings=dataclasses.replace(settings, **resolved),
        machine=machine,
        base=base,
        objective=objective,
        data=data,
        template=template,
        rejects=rejects,
        control=prepared,
        train_rows=train_rows,
        test_rows=test_rows,
        test_prompts=_prompts_of(kept),
        selected=test_rows.select(settings.evaluation_tokens),
        held_out=held_out,
        questions=questions_of(kept, template, base, settings),
        loop=loop,
        micro_batches=micro_batches,
    )


def refuse_other_kind(settings: PreferSettings, data: PreferenceData) -> None:
    """Check that the loss can learn from the kind of preferences.

    Raises:
        SettingsError: KTO was given pairs, or another loss rated answers.
    """
    if (settings.loss == "kto") == (data.kind == "rated"):
        return
    if data.kind == "rated":
        raise SettingsError(
            f"--loss {settings.loss} learns from pairs, but the records have one answer each, with a label",
            where=settings.data,
            fix="use --loss kto",
        )
    raise SettingsError(
        "--loss kto learns from single answers with labels, but the records are pairs",
        where=settings.data,
        fix="use --loss dpo; or write two records for each pair, with prompt, completion and label true or false",
    )


def questions_of(
    test: Sequence[Example], template: ChatTemplate, base: BaseModel, settings: PreferSettings
) -> list[Question]:
    """Some of the test prompts, each once: see `draw_questions`. The reference is the better, or a desirable answer."""
    found: dict[tuple[object, ...], Candidate] = {}
    for example in test:
        if isinstance(example, RatedExample) and not example.desirable:
            continue
        said = "\n\n".join(turn.content for turn in example.answers[0] if turn.role == "assistant")
        key = tuple((turn.role, turn.content) for turn in example.prompt)
        found.setdefault(key, Candidate(example.id, example.prompt, said))
    return draw_questions(list(found.values()), template, base, settings)


def _prompts_of(examples: Sequence[Example]) -> npt.NDArray[np.int64]:
    """(examples,) equal numbers for equal prompts."""
    numbers: dict[tuple[object, ...], int] = {}
    keys = [tuple((turn.role, turn.content) for turn in example.prompt) for example in examples]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
