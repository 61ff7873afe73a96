"""Prepare data, model and settings for `instruct`, and for `data estimate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from domain_ft.corpus.conversations.conversation import Conversation
from domain_ft.corpus.conversations.reading import ConversationData, ConversationSource, open_conversations
from domain_ft.corpus.conversations.rendering import ChatTemplate
from domain_ft.corpus.conversations.rows import ConversationRows, Dropped, encode_conversations
from domain_ft.corpus.corpus import open_corpus
from domain_ft.corpus.left_out import LeftOut
from domain_ft.corpus.prepared import PreparedCorpus, prepare
from domain_ft.corpus.readers.base import Reject
from domain_ft.embedded.loading import load
from domain_ft.models.base import BaseModel
from domain_ft.models.generation import refuse_encoder
from domain_ft.objectives.base import LanguageModelObjective
from domain_ft.objectives.causal_lm import CausalLM
from domain_ft.objectives.instructions import Instructions
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.instruct.settings import InstructSettings
from domain_ft.verbs.shared.answering import Candidate, Question, control_of, day_of, draw_questions
from domain_ft.verbs.shared.language_model import NO_CONTROL, HeldOut, hold_out, sequence_length
from domain_ft.verbs.shared.machine import Machine
from domain_ft.verbs.shared.text_runs import TextJob, plan_loop, resolve_settings

EPOCHS = 3.0

LEARNING_RATES = {"lora": 1e-3, "dora": 1e-3, "full": 5e-5}

CONTROL_FRACTION = 0.05  # the share of the control corpus that is held out, as by default in `adapt`


@dataclass(frozen=True)
class InstructJob(TextJob):
    """Conversations, rendered and tokenised, and the model to be trained on them.

    Attributes:
        data: the conversations.
        template: renders them.
        rejects: records that cannot be used or are marked as excluded from training, and conversations that the
            template cannot render.
        control: the corpus that forgetting is measured on, if any. `held_out` has the roles `test` and, with a control,
            `control`.
        questions: the test prompts that both models answer.
    """

    settings: InstructSettings
    objective: Instructions
    train_rows: ConversationRows
    data: ConversationData
    template: ChatTemplate
    rejects: Sequence[Reject]
    control: PreparedCorpus | None
    questions: Sequence[Question]

    def objective_of(self, role: str) -> LanguageModelObjective:
        """The loss on held-out text: of all tokens in the control corpus, but only of answers in the test examples."""
        return CausalLM(kernels=self.machine.kernels) if role == "control" else self.objective

    def learned_tokens(self, steps: int) -> int:
        """The number of answer tokens in the first `steps` steps."""
        plan, learned = self.plan, self.train_rows.trained_lengths
        epochs, rest = divmod(steps, plan.steps_per_epoch)
        whole = epochs * int(learned.sum(dtype="int64"))
        return whole + sum(
            int(learned[plan.step(epochs * plan.steps_per_epoch + step).rows].sum()) for step in range(rest)
        )

    @property
    def dropped(self) -> Sequence[Dropped]:
        """Conversations that have nothing to train on within --max-length."""
        held_out = self.held_out["test"].rows
        assert isinstance(held_out, ConversationRows)
        return (*self.train_rows.dropped, *held_out.dropped)

    @property
    def all_rejects(self) -> Sequence[Reject]:
        """The lines of rejects.jsonl: each record that is left out of training and measurement, with the reason."""
        return (*self.rejects, *(one.reject for one in self.dropped))

    @property
    def left_out(self) -> LeftOut:
        """What was not read, for result.json."""
        return LeftOut(records=len(self.all_rejects), fields=self.data.left_out.fields)

    @property
    def references_within_limit(self) -> int:
        """How many reference answers are no longer than --max-new-tokens."""
        return sum(question.reference_tokens <= self.settings.max_new_tokens for question in self.questions)


def set_up(settings: InstructSettings, machine: Machine, display: ProgressDisplay) -> InstructJob:
    """Read the conversations, load the model, and resolve the settings that depend on them.

    Raises:
        UserError: the data, the model or the settings cannot be used, or the processes differ in them.
    """
    rejects: list[Reject] = []
    display.say(f"reading {settings.data}")
    with machine.main_first():
        data = open_conversations(ConversationSource.of(settings), rejects=rejects.append, progress=display.job)
        dtype = machine.weights_dtype(settings.method, settings.train_modules)
        base = load(settings.model, device=machine.device, dtype=dtype, progress=display.job)
        refuse_encoder(base)
        today = day_of(settings)
        template = ChatTemplate.of(base.tokenizer, today)
        length = sequence_length(base, settings.max_length)
        rows = {
            split: encode_conversations(
                conversations,
                base.tokenizer,
                template,
                max_length=length,
                rejects=rejects.append if settings.on_bad_record == "skip" else None,
                progress=display.job,
            )
            for split, conversations in (("train", data.train), ("test", data.test))
        }
        control = control_of(settings)
        prepared = (
            prepare(open_corpus(control), evaluation_fraction=CONTROL_FRACTION, progress=display.job)
            if control
            else None
        )
        budget = settings.evaluation_tokens
        held_out = {"test": HeldOut(data.name, "test", rows["test"], rows["test"].select_documents(budget))}
        if prepared:
            held_out["control"] = hold_out(
                prepared, "control", base, max_length=length, max_tokens=budget, display=display
            )
    machine.agree(
        settings.to_dict() | {"conversations": data.key, "tokens": rows["train"].key, "base model": base.revision},
        base.model,
    )
    objective = Instructions(kernels=machine.kernels)
    budgeted = settings.max_steps is not None or settings.max_tokens is not None
    micro_batches, loop = plan_loop(
        settings,
        machine,
        base,
        objective,
        rows["train"],
        display,
        max_tokens=settings.max_tokens,
        epochs=None if budgeted else settings.epochs or EPOCHS,
        learning_rate=settings.learning_rate or LEARNING_RATES[settings.method],
    )
    resolved = resolve_settings(settings, machine, length, loop) | {
        "format": data.format,
        "control": control or NO_CONTROL,
        "template_date": today.isoformat() if template.writes_date else settings.template_date,
    }
    kept = [data.test[index] for index in np.unique(rows["test"].documents)]
    return InstructJob(
        settings=dataclasses.replace(settings, **resolved),
        machine=machine,
        base=base,
        objective=objective,
        data=data,
        template=template,
        rejects=rejects,
        control=prepared,
        train_rows=rows["train"],
        held_out=held_out,
        questions=questions_of(kept, template, base, settings),
        loop=loop,
        micro_batches=micro_batches,
    )


def questions_of(
    test: Sequence[Conversation], template: ChatTemplate, base: BaseModel, settings: InstructSettings
) -> list[Question]:
    """The prompts before the last answers of some test conversations: see `draw_questions`.

    Conversations that begin with their last answer are skipped.

    Args:
        test: conversations that the template can render.
    """
    candidates = []
    for conversation in test:
        answers = [place for place, turn in enumerate(conversation.turns) if turn.trained and turn.content.strip()]
        if answers and answers[-1] > 0:
            before, answer = conversation.turns[: answers[-1]], conversation.turns[answers[-1]].content
            candidates.append(Candidate(conversation.id, before, answer, conversation.tools))
    return draw_questions(candidates, template, base, settings)
