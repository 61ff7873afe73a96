"""`prefer` from preferences to run folder, with tiny models: its numbers, its reference, resume, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from instruct_jobs import save_chatty
from peft import PeftModel
from prefer_jobs import BAD, GOOD, question, settings, write_pairs
from safetensors.torch import load_file
from tiny_models import save_tiny
from transformers import AutoModelForCausalLM
from verb_jobs import power_cut

from domain_ft.errors import CorpusError, ModelError, RecordError, SettingsError
from domain_ft.verbs.instruct.run import instruct
from domain_ft.verbs.prefer.losses import DEFAULTS, loss_options, objective_of
from domain_ft.verbs.prefer.run import output_folder, prefer, run
from domain_ft.verbs.prefer.settings import PreferSettings

SHORT: dict[str, Any] = {"max_steps": 1, "generate_examples": 0, "control": "none"}
MEASURED = {"accuracy", "ranking_accuracy", "matched_accuracy", "margin", "chosen_log_prob", "rejected_log_prob"}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, which it may damage."""
    monkeypatch.setenv("DOMAIN_FT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def result_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_from_pairs_to_folder(tmp_path: Path) -> None:
    finished = prefer(settings(tmp_path, max_steps=20))
    result = result_of(finished.folder)
    assert (result["command"], result["objective"], result["format"]) == ("prefer", "dpo", "pairs")
    assert result["examples"]["train"] + result["examples"]["test"] == 40
    before, after = result["before"], result["after"]
    for when in (before, after):
        assert when["test"].keys() >= MEASURED
        assert set(when["control"]) == {"loss", "perplexity", "bits_per_byte", "tokens", "bytes"}
        assert when["answers"]["examples"] == 4
    assert (before["test"]["accuracy"], before["test"]["margin"], before["test"]["kl_per_token"]) == (0.5, 0, 0)
    assert after["test"]["accuracy"] == 1
    assert after["test"]["interval"]["accuracy"][0] > 0.5
    assert result["differences"]["test"]["margin"]["interval"][0] > 0
    assert after["test"]["kl_per_token"] > 0
    assert metrics_of(finished.folder)[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {
        "README.md",
        "adapter",
        "answers.jsonl",
        "checkpoints",
        "config.toml",
        "metrics.jsonl",
        "report.html",
        "result.json",
        "scores",
    }
    assert ModelCard.load(finished.folder / "README.md").data.library_name == "peft"
    answers = [json.loads(line) for line in (finished.folder / "answers.jsonl").read_text().splitlines()]
    assert all(one["reference"] in GOOD for one in answers)
    page = (finished.folder / "report.html").read_text()
    assert "KL per token" in page
    assert answers[0]["prompt"] in page


def test_measures_equal_an_independent_computation_with_peft(tmp_path: Path) -> None:
    """The held-out margin and log-probabilities, from PEFT's model and plain forward passes."""
    asked = settings(tmp_path, generate_examples=100, max_steps=10)
    finished = prefer(asked)
    base = AutoModelForCausalLM.from_pretrained(asked.model)
    tokenizer, ratios, sums = finished.tokenizer, [], []
    held_out = [json.loads(line)["prompt"] for line in (finished.folder / "answers.jsonl").read_text().splitlines()]
    pairs = {one["prompt"]: one for one in map(json.loads, Path(asked.data).read_text().splitlines())}

    def log_prob(model: torch.nn.Module, prompt: str, answer: str) -> float:
        start = f"[user] {prompt}<|endoftext|>[assistant] "
        encoded = tokenizer(f"{start}{answer}<|endoftext|>", return_offsets_mapping=True)
        ids = torch.tensor([encoded["input_ids"]])
        with torch.no_grad():
            logs = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].double().log_softmax(-1)
        return sum(
            float(logs[place - 1, ids[0, place]])
            for place, (_, end) in enumerate(encoded["offset_mapping"])
            if end > len(start)
        )

    before = {(q, a): log_prob(base, q, pairs[q][a]) for q in held_out for a in ("chosen", "rejected")}
    trained = PeftModel.from_pretrained(base, finished.folder / "adapter").eval()
    for prompt in held_out:
        after = [log_prob(trained, prompt, pairs[prompt][one]) for one in ("chosen", "rejected")]
        ratios.append([value - before[prompt, one] for value, one in zip(after, ("chosen", "rejected"), strict=True)])
        sums.append(after)
    test = finished.result["after"]["test"]
    assert test["pairs"] == len(held_out)
    means = np.mean(sums, axis=0)
    assert [test["chosen_log_prob"], test["rejected_log_prob"]] == pytest.approx(means.tolist(), rel=1e-5)
    assert test["margin"] == pytest.approx(np.mean([one - other for one, other in ratios]), rel=1e-4)


@pytest.mark.parametrize(
    "loss", ["kto", "simpo", *[pytest.param(one, marks=pytest.mark.slow) for one in DEFAULTS if one != "dpo"]]
)
def test_every_loss_learns_the_preferences(loss: str, tmp_path: Path) -> None:
    finished = prefer(settings(tmp_path, loss=loss, max_steps=30, generate_examples=0, control="none"))
    result = finished.result
    assert result["objective"] == loss
    assert result["before"]["test"]["accuracy"] == 0.5
    assert result["differences"]["test"]["accuracy"]["verdict"] == "better"
    assert result["differences"]["test"]["margin"]["difference"] > 0
    assert result["before"]["control"] is None
    rows = result["examples"]["train"] if loss in ("dpo", "robust", "ipo", "hinge", "kto") else 0
    assert result["reference"]["rows"] == rows + result["examples"]["test"]
    assert "The model's own answers were not measured" in (finished.folder / "README.md").read_text()


@pytest.mark.usefixtures("own_cache")
def test_the_reference_is_computed_once_for_all_losses_and_seeds(tmp_path: Path) -> None:

    def counts(name: str, **changes: Any) -> tuple[int, int]:
        """The rows of a short run, and how many of them the cache had."""
        short = settings(tmp_path, output=tmp_path / name, **SHORT, **changes)
        reference = prefer(short).result["reference"]
        return reference["rows"], reference["reused"]

    assert counts("one") == (40, 0)
    assert counts("two", loss="hinge", seed=5) == (40, 40)
    write_pairs(tmp_path / "pairs.jsonl", 44)
    assert counts("three") == (44, 40)
    save_chatty("gpt2", tmp_path / "other")
    assert counts("four", model=str(tmp_path / "other")) == (44, 0)


def test_a_reference_that_is_not_the_model_stops_the_run(tmp_path: Path, own_cache: Path) -> None:
    prefer(settings(tmp_path, output=tmp_path / "one", **SHORT))
    for file in (own_cache / "references").glob("*.npy"):
        entries = np.load(file)
        entries["values"] += 1
        np.save(file, entries)
    with pytest.raises(ModelError, match=r"(?s)differs by 1 nats between the model and the ref.*delete that file"):
        prefer(settings(tmp_path, output=tmp_path / "two", **SHORT))


def test_damage_in_the_cache_is_repaired(tmp_path: Path, own_cache: Path) -> None:
    prefer(settings(tmp_path, output=tmp_path / "one", **SHORT))
    for file in (own_cache / "references").glob("*.npy"):
        file.write_bytes(file.read_bytes()[:50])
    assert prefer(settings(tmp_path, output=tmp_path / "two", **SHORT)).result["reference"]["reused"] == 0


def test_the_reference_of_a_run_is_its_merged_model(tmp_path: Path) -> None:
    """Not the bare base: the adapter of `instruct` is merged, so that the first loss is log 2."""
    from instruct_jobs import settings as instruct_settings

    taught = instruct(instruct_settings(tmp_path, output=tmp_path / "taught", max_steps=20, generate_examples=0))
    finished = prefer(settings(tmp_path, model=str(taught.folder), max_steps=2, generate_examples=0))
    assert metrics_of(finished.folder)[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    bare = prefer(settings(tmp_path, output=tmp_path / "bare", max_steps=2, generate_examples=0))
    assert finished.result["before"]["test"]["chosen_log_prob"] > bare.result["before"]["test"]["chosen_log_prob"]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_an_interrupted_run_is_resumed_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    whole = prefer(settings(tmp_path, output=tmp_path / "whole", loss=loss, dropout=0.1))
    with power_cut(monkeypatch):
        prefer(settings(tmp_path, loss=loss, dropout=0.1))
    resumed = prefer(settings(tmp_path, loss=loss, dropout=0.1, resume=True))
    for key in ("before", "after", "tokens_seen"):
        assert resumed.result[key] == whole.result[key]
    one, other = (load_file(f / "adapter" / "adapter_model.safetensors") for f in (whole.folder, resumed.folder))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("loss", ["dpo", pytest.param("kto", marks=pytest.mark.slow)])
def test_the_micro_batch_size_changes_the_result_only_by_rounding(tmp_path: Path, loss: str) -> None:
    found = []
    for size in (10_000, 60):
        asked = settings(
            tmp_path, output=tmp_path / str(size), loss=loss, tokens_per_micro_batch=size, max_steps=2, control="none"
        )
        folder = prefer(asked).folder
        found.append([line["loss"] for line in metrics_of(folder)])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_full_training_measures_the_distance_to_a_reference_that_is_gone(tmp_path: Path) -> None:
    finished = prefer(settings(tmp_path, "gpt2", template=False, method="full", learning_rate=1e-3, max_steps=10))
    assert (finished.folder / "model" / "model.safetensors").is_file()
    assert finished.result["after"]["test"]["kl_per_token"] > 1e-4
    assert finished.result["template"] == "plain"


def test_a_dry_run_says_what_would_be_done_and_leaves_nothing(tmp_path: Path) -> None:
    planned = run(settings(tmp_path, dry_run=True, json=True))
    assert (planned["steps"], planned["format"], planned["objective"]) == (6, "pairs", "dpo")
    assert not (tmp_path / "run").exists()


def test_private_text_is_kept_out_of_the_report(tmp_path: Path) -> None:
    finished = prefer(settings(tmp_path, examples=False, max_steps=1))
    page = (finished.folder / "report.html").read_text() + (finished.folder / "README.md").read_text()
    assert not (finished.folder / "answers.jsonl").exists()
    assert not any(text in page for text in (*GOOD, *BAD, *map(question, range(40))))


def test_options_that_a_loss_does_not_have_are_refused_together() -> None:
    with pytest.raises(SettingsError, match=r"(?s)--gamma is not an option of --loss dpo, but of simpo"):
        loss_options(PreferSettings(data="x", gamma=1.0))
    with pytest.raises(SettingsError, match=r"(?s)--label-smoothing is not .*ipo.*--length-weight is not"):
        loss_options(PreferSettings(data="x", loss="ipo", label_smoothing=0.1, length_weight=0.5))
    assert loss_options(PreferSettings(data="x", loss="simpo")) == DEFAULTS["simpo"]
    assert loss_options(PreferSettings(data="x", loss="cpo", sft_weight=0.0))["sft_weight"] == 0


def test_kto_weighs_both_kinds_alike() -> None:
    desirable = np.arange(8) < 6
    objective = objective_of(PreferSettings(data="x", loss="kto"), "auto", None, desirable)
    weights: Any = objective
    assert (weights.desirable_weight, weights.undesirable_weight) == (1.0, 3.0)


def test_losses_refuse_the_other_kind_of_preferences(tmp_path: Path) -> None:
    pairs, rated = settings(tmp_path), settings(tmp_path, loss="kto")
    with pytest.raises(SettingsError, match=r"(?s)--loss kto learns from single answers .* write two records"):
        prefer(dataclasses.replace(rated, data=pairs.data, output=tmp_path / "a"))
    with pytest.raises(SettingsError, match=r"(?s)--loss dpo learns from pairs.*use --loss kto"):
        prefer(dataclasses.replace(pairs, data=rated.data, output=tmp_path / "b"))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "Why?", "chosen": "So.", "rejected": "So. "}, "the answer is the same as that in chosen"),
        ({"prompt": "Why?", "chosen": "", "rejected": "So."}, "the answer is empty"),
        ({"prompt": "", "chosen": "Yes.", "rejected": "No."}, "the prompt is empty"),
        ({"prompt": "Why?", "chosen": 5, "rejected": "No."}, "where text is expected"),
    ],
)
def test_records_that_cannot_be_used_are_named_or_listed(record: dict[str, Any], message: str, tmp_path: Path) -> None:
    asked = settings(tmp_path, **SHORT)
    with Path(asked.data).open("a") as file:
        file.write(json.dumps(record) + "\n")
    with pytest.raises(RecordError, match=rf"(?s){message}.*pairs.jsonl, line 41, field"):
        prefer(asked)
    finished = prefer(dataclasses.replace(asked, output=tmp_path / "skipped", on_bad_record="skip"))
    rejected = [json.loads(line) for line in (finished.folder / "rejects.jsonl").read_text().splitlines()]
    assert [(one["line"], message in one["reason"]) for one in rejected] == [(41, True)]
    assert finished.result["examples"]["rejected"] == 1


def test_a_pair_whose_prompt_leaves_no_room_is_left_out_and_listed(tmp_path: Path) -> None:
    asked = settings(tmp_path, **SHORT)
    with Path(asked.data).open("a") as file:
        file.write(json.dumps({"prompt": "long " * 200, "chosen": "Yes.", "rejected": "No."}) + "\n")
    finished = prefer(asked)
    assert finished.result["examples"]["dropped"] == 1
    assert "nothing is left to learn" in (finished.folder / "rejects.jsonl").read_text()


def test_models_and_lengths_that_cannot_work_are_refused(tmp_path: Path) -> None:
    save_tiny("bert", tmp_path / "bert")
    with pytest.raises(ModelError, match=r"bert' is an encoder, which cannot generate text"):
        prefer(settings(tmp_path, model=str(tmp_path / "bert")))
    with pytest.raises(CorpusError, match=r"nothing can be learned from"):
        prefer(settings(tmp_path, output=tmp_path / "other", max_length=8))


def test_the_folder_is_named_by_data_and_model() -> None:
    assert output_folder(PreferSettings(data="some/pairs.jsonl", model="runs/taught")) == Path("runs/pairs-taught")
