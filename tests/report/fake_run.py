"""Invented runs of adapt and evaluate with realistic numbers, for the tests of their reports."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from domain_ft.verbs.adapt.report import AdaptReport
from domain_ft.verbs.evaluate.report import EvaluationReport, ModelScores
from domain_ft.verbs.shared.facts import BaseFacts, CorpusFacts


def losses(loss: float, tokens: int = 6_144) -> dict[str, Any]:
    return {
        "loss": loss,
        "perplexity": float(np.exp(loss)),
        "bits_per_byte": loss / np.log(2) / 4.6,
        "tokens": tokens,
        "bytes": int(tokens * 4.6),
    }


def difference(loss: float, spread: float, documents: int = 115) -> dict[str, Any]:
    return {
        "loss": loss,
        "interval": [loss - spread, loss + spread],
        "bits_per_byte": loss / np.log(2) / 4.6,
        "bits_per_byte_interval": [(loss + s) / np.log(2) / 4.6 for s in (-spread, spread)],
        "level": 0.95,
        "documents": documents,
        "resamples": 4000,
        "few_documents": documents < 10,
    }


def metrics(steps: int = 60) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    lines = []
    for step in range(1, steps + 1):
        line: dict[str, Any] = {
            "step": step,
            "tokens": step * 4096,
            "loss": 4.83 + 1.3 * float(np.exp(-step / 15)) + float(rng.normal(0, 0.12)),
            "learning_rate": 1e-3,
            "tokens_per_second": 1300.0,
            "padding_fraction": 0.0,
            "grad_norm": 0.7,
            "memory_bytes": 1_800_000_000,
        }
        if step % 8 == 0:
            line["evaluation"] = {
                "domain": losses(4.80 + 1.2 * float(np.exp(-step / 15)), 1500),
                "control": losses(5.74 + 0.2 * float(np.exp(-step / 12)), 1500),
            }
        lines.append(line)
    return lines


def _said(*guesses: tuple[str, float], rank: int, probability: float) -> dict[str, Any]:
    return {
        "guesses": [{"text": text, "probability": value} for text, value in guesses],
        "answer_probability": probability,
        "answer_rank": rank,
        "continuation": "",
    }


def masked_samples() -> list[dict[str, Any]]:
    sentences = [
        ("This License does not grant permission to use the trade ", "names", ", trademarks or product names.", "mark"),
        ("You may reproduce and ", "distribute", " copies of the Work in any medium, with or without changes.", "sell"),
        ("In no event shall any Contributor be ", "liable", " to You for damages of any character.", "known"),
        ("Altered source ", "versions", " must be plainly marked as such, and must not be misrepresented.", "text"),
        ("契約の当事者は、法令の", "規定", "に従い、その内容を自由に決定することができる。", "中"),
    ]
    return [
        {
            "document": f"licence-{index}",
            "left": left,
            "answer": word,
            "right": right,
            "before": _said(
                (wrong, 0.11), ("the", 0.06), ("a", 0.05), ("other", 0.02), ("it", 0.01), rank=212, probability=4e-4
            ),
            "after": _said(
                (word, 0.43), (wrong, 0.09), ("other", 0.07), ("all", 0.03), ("such", 0.02), rank=1, probability=0.43
            )
            if index % 4 != 3
            else _said(
                ("copies", 0.2),
                ("code", 0.19),
                (word, 0.11),
                ("files", 0.03),
                ("forms", 0.02),
                rank=3,
                probability=0.11,
            ),
        }
        for index, (left, word, right, wrong) in enumerate(sentences * 2)
    ]


def continued_samples() -> list[dict[str, Any]]:
    return [
        {
            "document": "licence-1",
            "left": "In no event shall any Contributor be liable",
            "answer": "to You for damages, including any direct or indirect damages of any character.",
            "right": "",
            "before": {
                "guesses": [],
                "answer_probability": None,
                "answer_rank": None,
                "continuation": "for the actions of others. 2.",
            },
            "after": {
                "guesses": [],
                "answer_probability": None,
                "answer_rank": None,
                "continuation": "to any party for direct, indirect or special damages",
            },
        }
    ]


def adapt_report(**changes: Any) -> AdaptReport:
    rng = np.random.default_rng(1)
    report = AdaptReport(
        result={
            "command": "adapt",
            "model": "minilm",
            "objective": "mlm",
            "device": "cpu",
            "kernels": "torch",
            "tokens_seen": 245_760,
            "steps": 60,
            "wall_seconds": 214.3,
            "tokens_per_second": 1312.0,
            "peak_memory_bytes": 1_840_000_000,
            "trainable_parameters": 1_327_104,
            "total_parameters": 24_212_154,
            "before": {"domain": losses(6.104), "control": losses(6.312, 5_100)},
            "after": {"domain": losses(4.803), "control": losses(5.938, 5_100)},
        },
        base=BaseFacts("minilm", "/somewhere/minilm", revision="3f1b8c2a9d", embedded=True, licence="Apache-2.0"),
        corpus=CorpusFacts(
            name="legal",
            description="Licence texts of software and data, each with notices and notes.",
            licence="CC-BY-4.0",
            citation="nexB Inc. and others, ScanCode LicenseDB",
            language="en",
            statistics={
                "read": 2_313,
                "kept": 2_104,
                "exact_duplicates": 71,
                "near_duplicates": 138,
                "groups": 1_702,
                "rejects": 0,
                "characters": 13_904_112,
                "train_documents": 1_989,
                "evaluation_documents": 115,
                "greatest_overlap": 0.487,
            },
            lengths=np.exp(rng.normal(6.3, 1.2, 1_989)).astype(int).tolist(),
        ),
        control=CorpusFacts(name="medical", description="Phenotypes and diagnoses.", licence="HPO", language="en"),
        differences={
            "domain": difference(-1.301, 0.12),
            "control": difference(-0.374, 0.06, 640),
            "beyond_control": difference(-0.927, 0.14),
        },
        settings={
            "corpus": "legal",
            "model": "minilm",
            "method": "lora",
            "rank": 16,
            "max_tokens": 250_000,
            "control": None,
        },
        provenance={
            "versions": {"python": "3.11.7", "domain-ft": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
            "machine": "x86_64, 2 threads",
            "device": "cpu",
        },
        metrics=metrics(),
        samples=masked_samples(),
    )
    return dataclasses.replace(report, **changes)


def evaluation_report() -> EvaluationReport:
    return EvaluationReport(
        models=[
            ModelScores("minilm", {"domain": losses(6.104), "control": losses(6.312)}),
            ModelScores(
                "runs/legal-minilm",
                {"domain": losses(4.803), "control": losses(5.938)},
                {"domain": difference(-1.301, 0.12), "control": difference(-0.374, 0.06)},
            ),
            ModelScores(
                "runs/medical-minilm",
                {"domain": losses(5.7), "control": losses(4.9)},
                {"domain": difference(-0.404, 0.1), "control": difference(-1.412, 0.08)},
            ),
        ],
        corpora={"domain": "legal", "control": "medical"},
        provenance={"domain-ft": "0.1.0"},
    )
