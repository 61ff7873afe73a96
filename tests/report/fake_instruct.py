"""An invented run of instruct with realistic numbers and answers, for the tests of its report."""

from __future__ import annotations

import dataclasses
from typing import Any

from fake_run import difference, losses, metrics

from domain_ft.corpus.conversations.conversation import Conversation, Turn
from domain_ft.evaluation.answers import AnswerScores, answer_differences
from domain_ft.verbs.instruct.report import ConversationFacts, InstructReport
from domain_ft.verbs.shared.facts import AnswerPair, BaseFacts, CorpusFacts

RESAMPLES = 200
LONG = (
    AnswerPair(
        id="medquad.jsonl:17",
        prompt="What are the treatments for van der Woude syndrome?",
        reference="These resources address the diagnosis or management of van der Woude syndrome:\n- Gene Review\n"
        "- Genetic Testing Registry",
        before="Van der Woude syndrome is a rare condition. It is a rare condition. It is a rare condition. It is a",
        after="These resources address the diagnosis or management of van der Woude syndrome:\n"
        "- Genetic Testing Registry",
        stopped=(False, True),
    ),
    AnswerPair(
        id="medquad.jsonl:203",
        prompt="Is cystic fibrosis inherited?",
        reference="This condition is inherited in an autosomal recessive pattern, which means both copies of the gene "
        "in each cell have mutations.",
        before="Cystic fibrosis is a disease of the lungs, and there are many ways to live with it well and long.",
        after="This condition is inherited in an autosomal recessive pattern: both copies of the gene have mutations.",
    ),
    AnswerPair(
        id="medquad.jsonl:411",
        prompt="患者は平熱ですが、咳が続いています。\n何科を受診すればよいですか。",
        reference="まずは内科を受診してください。咳が三週間以上続く場合は、呼吸器内科で検査を受けることを勧めます。",
        before="I am sorry, I do not understand. I am sorry, I do not understand. I am sorry, I do not",
        after="呼吸器内科を受診してください。咳が長く続く場合は検査を勧めます。",
        stopped=(False, True),
    ),
    AnswerPair(
        id="medquad.jsonl:512",
        prompt="How many people are affected by Rett syndrome?",
        reference="This condition affects about 1 in 8,500 females. It is rare in males, of whom few live beyond "
        "the first months, since they have no second copy of the gene.",
        before="",
        after="This condition affects about 1 in 9,000 females and is very rare in males.",
    ),
)
SHORT = tuple(
    AnswerPair(f"questions.csv:{place}", f"Is finding {place} present?", "yes", "I think that it may be there", "Yes.")
    for place in range(12)
)


def scored(pairs: tuple[AnswerPair, ...], when: int) -> AnswerScores:
    """The scores of the answers of the base model (`when` = 0) or of the trained model (1)."""
    said = [(pair.before, pair.after)[when] for pair in pairs]
    return AnswerScores.of(
        said,
        [pair.reference for pair in pairs],
        tokens=[len(text.split()) + 1 for text in said],
        stopped=[pair.stopped[when] for pair in pairs],
    )


@dataclasses.dataclass(frozen=True)
class Read:
    """A stand-in for loaded conversations, with the attributes that `ConversationFacts.of` reads."""

    train: tuple[Conversation, ...]
    name: str = "medquad"
    format: str = "qa"
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ("14 records that could not be used were left out.",)


def facts(pairs: tuple[AnswerPair, ...] = LONG) -> ConversationFacts:
    train = tuple(
        Conversation(pair.id, "f", 1, (Turn("user", pair.prompt), Turn("assistant", pair.reference, trained=True)))
        for pair in pairs
    )
    known = {
        "examples": {"train": 271, "test": 29},
        "split": "by content: whole groups of near copies",
        "leaks": 0,
        "leak_list": [{"test": pair.id, "train": pair.id, "similarity": 1.0} for pair in pairs],
        "licence": "CC-BY-4.0",
        "format": "qa",
    }
    data: Any = Read(train, facts=known)
    return ConversationFacts.of(data)


def instruct_report(pairs: tuple[AnswerPair, ...] = LONG, **changes: Any) -> InstructReport:
    before, after = (scored(pairs, when) for when in (0, 1))
    lines = [{name: value for name, value in line.items() if name != "evaluation"} for line in metrics(40)]
    for line in lines:
        line["loss"] -= 3.3
    for line in lines[9::10]:
        line["evaluation"] = {"test": losses(1.9 - line["step"] / 100, 1_500)}
    report = InstructReport(
        result={
            "command": "instruct",
            "model": "smollm2",
            "objective": "instructions",
            "method": "lora",
            "device": "cpu",
            "kernels": "torch",
            "data": "medquad.jsonl",
            "format": "qa",
            "examples": {"train": 271, "test": 29, "rejected": 2, "dropped": 3, "cut": 41},
            "template": "model",
            "references_within_limit": len(pairs) - 1,
            "tokens_seen": 163_840,
            "tokens_trained": 121_004,
            "steps": 40,
            "wall_seconds": 611.0,
            "training_seconds": 540.0,
            "tokens_per_second": 303.4,
            "peak_memory_bytes": 2_310_000_000,
            "trainable_parameters": 4_884_480,
            "total_parameters": 139_399_488,
            "before": {
                "test": losses(1.912),
                "control": losses(3.402, 9_800),
                "answers": before.summary(resamples=RESAMPLES),
            },
            "after": {
                "test": losses(1.488),
                "control": losses(3.431, 9_800),
                "answers": after.summary(resamples=RESAMPLES),
            },
        },
        base=BaseFacts("smollm2", "/somewhere/smollm2", revision="0.1.2", embedded=True, licence="Apache-2.0"),
        data=facts(pairs),
        control=CorpusFacts(
            name="legal",
            description="Licence texts of software and data.",
            licence="CC-BY-4.0",
            citation="nexB Inc. and others, ScanCode LicenseDB",
        ),
        differences={
            "test": difference(-0.424, 0.11, 29),
            "control": difference(0.029, 0.008, 61),
            "answers": answer_differences(before, after, resamples=RESAMPLES),
        },
        settings={"model": "smollm2", "data": "medquad.jsonl", "method": "lora", "rank": 16, "max_new_tokens": 128},
        provenance={"versions": {"python": "3.11.7", "domain-ft": "0.1.0"}, "device": "cpu"},
        metrics=lines,
        answers=pairs,
    )
    return dataclasses.replace(report, **changes)


def unanswered(**changes: Any) -> InstructReport:
    """A run without answers, without a control and without metrics."""
    report = instruct_report(control=None, answers=(), metrics=())
    result = {
        **report.result,
        **{
            when: {"test": report.result[when]["test"], "control": None, "answers": None}
            for when in ("before", "after")
        },
    }
    differences = {"test": report.differences["test"]}
    return dataclasses.replace(report, result=result, differences=differences, **changes)
