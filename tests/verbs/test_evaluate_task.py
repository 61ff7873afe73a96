"""`evaluate --task` and `--test`: runs of classify on the same examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from classify_jobs import records, settings, write_csv

from domain_ft.errors import CorpusError, SettingsError
from domain_ft.evaluation.predictions import Predictions
from domain_ft.verbs.classify.run import classify
from domain_ft.verbs.evaluate.run import run
from domain_ft.verbs.evaluate.settings import EvaluateSettings
from domain_ft.verbs.evaluate.tasks import evaluate_task


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that has learned, `good`, and one that has not, `poor`."""
    folder = tmp_path_factory.mktemp("evaluate")
    classify(settings(folder, output=folder / "good"))
    classify(settings(folder, output=folder / "poor", max_steps=1))
    return folder


def asked(folder: Path, test: Path, *names: str) -> EvaluateSettings:
    models = tuple(str(folder / name) for name in names)
    return EvaluateSettings(test=str(test), model=models, dtype="float32", quiet=True)


@pytest.mark.slow
def test_a_learned_model_is_shown_to_be_better(runs: Path, tmp_path: Path) -> None:
    test = write_csv(tmp_path / "fresh.csv", records(60, seed=7))
    found = run(asked(runs, test, "poor", "good"))
    assert found["models"][1]["test"]["macro_f1"] > 0.85 > found["models"][0]["test"]["macro_f1"]
    assert found["models"][1]["differences"]["macro_f1"]["verdict"] == "better"
    assert run(asked(runs, test, "good", "poor"))["models"][1]["differences"]["macro_f1"]["verdict"] == "worse"


def test_the_predictions_are_those_of_the_run_itself(runs: Path, tmp_path: Path) -> None:
    kept = Predictions.load(runs / "good" / "predictions" / "test-seed-0.npz")
    rows = {row["id"]: row for row in records(150)}
    test = write_csv(tmp_path / "test.csv", [rows[name] for name in kept.ids])
    _, (said,) = evaluate_task(asked(runs, test, "good"))
    assert said.key == kept.key
    np.testing.assert_allclose(said.logits, kept.logits, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_scored_is_refused(runs: Path, tmp_path: Path) -> None:
    strange = write_csv(tmp_path / "strange.csv", [*records(6), {"id": "x", "text": "a", "label": "verse"}])
    with pytest.raises(CorpusError, match="verse"):
        run(asked(runs, strange, "good"))
    with pytest.raises(SettingsError, match="none of --corpus, --task and --test"):
        run(EvaluateSettings(model=("minilm",), quiet=True))
    with pytest.raises(SettingsError, match="--corpus and --test were given"):
        run(EvaluateSettings(model=("minilm",), corpus="legal", test="x.csv", quiet=True))
