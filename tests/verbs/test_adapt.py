"""`adapt` from text to run folder, with tiny models: the folder, its numbers, resume, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import VOCABULARY, save_tiny, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
from verb_jobs import LEGAL, MEDICAL, power_cut, settings, texts

from domain_ft.checking import options
from domain_ft.errors import ModelError, SettingsError
from domain_ft.models.activation_checkpointing import ActivationCheckpointing
from domain_ft.models.base import load
from domain_ft.training.progress import ProgressDisplay
from domain_ft.verbs.adapt import prepare as adapt_prepare
from domain_ft.verbs.adapt import run as adapt_verb
from domain_ft.verbs.adapt.run import adapt, output_folder, run
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.data import estimate
from domain_ft.verbs.data.settings import EstimateSettings
from domain_ft.verbs.evaluate.run import evaluate
from domain_ft.verbs.evaluate.run import run as run_evaluate
from domain_ft.verbs.evaluate.settings import EvaluateSettings
from domain_ft.verbs.export.run import export
from domain_ft.verbs.export.settings import ExportSettings
from domain_ft.verbs.groups import MachineOptions
from domain_ft.verbs.shared import machine as machines
from domain_ft.verbs.shared import text_runs, training
from domain_ft.verbs.shared.language_model import score_held_out
from domain_ft.verbs.shared.machine import choose_machine

RESULT_KEYS = {
    "command",
    "model",
    "objective",
    "device",
    "kernels",
    "tokens_seen",
    "steps",
    "wall_seconds",
    "tokens_per_second",
    "peak_memory_bytes",
    "trainable_parameters",
    "total_parameters",
    "before",
    "after",
}


@pytest.mark.parametrize(
    ("architecture", "objective"), [("bert", "mlm"), pytest.param("llama", "clm", marks=pytest.mark.slow)]
)
def test_a_run_from_text_to_folder(architecture: str, objective: str, tmp_path: Path) -> None:
    finished = adapt(settings(tmp_path, architecture, max_steps=20))
    result = json.loads((finished.folder / "result.json").read_text())
    assert result.keys() >= RESULT_KEYS
    assert (result["command"], result["objective"], result["steps"]) == ("adapt", objective, 20)
    for when in ("before", "after"):
        for role in ("domain", "control"):
            assert set(result[when][role]) == {"loss", "perplexity", "bits_per_byte", "tokens", "bytes"}
    assert result["after"]["domain"]["loss"] < result["before"]["domain"]["loss"]
    assert result["after"]["domain"]["tokens"] == result["before"]["domain"]["tokens"]
    assert result["trainable_parameters"] == sum(
        t.numel() for t in load_file(finished.folder / "adapter" / "adapter_model.safetensors").values()
    )
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {
        "README.md",
        "adapter",
        "checkpoints",
        "config.toml",
        "metrics.jsonl",
        "report.html",
        "result.json",
        "scores",
    }
    assert ModelCard.load(finished.folder / "README.md").data.library_name == "peft"
    lines = [json.loads(line) for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert sum("evaluation" in line for line in lines) >= 5


@pytest.mark.parametrize(
    ("architecture", "words"), [("bert", "mlm"), pytest.param("gpt2", "clm", marks=pytest.mark.slow)]
)
def test_sentence_vectors_are_trained_on_pairs(architecture: str, words: str, tmp_path: Path) -> None:
    options = {"objective": "contrastive", "dimensions": "8,16", "word_weight": 1.0}
    finished = adapt(settings(tmp_path, architecture, learning_rate=1e-2, max_steps=25, **options))
    result = json.loads((finished.folder / "result.json").read_text())
    assert (result["objective"], result["language_model"]) == ("contrastive", words)
    before, after = result["before"], result["after"]
    assert after["domain"]["loss"] < before["domain"]["loss"]
    for one in (before["retrieval"], after["retrieval"], result["bm25"]):
        assert set(one) == {"ndcg@10", "mrr@10", "recall@10", "queries"}
        assert 0 <= one["ndcg@10"] <= 1
    gained = result["differences"]["retrieval"]["ndcg@10"]["difference"]
    assert gained == pytest.approx(after["retrieval"]["ndcg@10"] - before["retrieval"]["ndcg@10"])
    for name in ("README.md", "report.html"):
        assert "nDCG@10" in (finished.folder / name).read_text()
    assert ModelCard.load(finished.folder / "README.md").data.pipeline_tag == "sentence-similarity"
    repeated = AdaptSettings.from_toml(finished.folder / "config.toml")
    assert (repeated.objective, repeated.dimensions, repeated.tokens_per_step) == ("contrastive", "8,16", 400)


@pytest.mark.slow
def test_evaluate_measures_retrieval_as_the_run_did(tmp_path: Path) -> None:
    finished = adapt(settings(tmp_path, objective="contrastive", max_steps=10, dtype="float32"))
    asked = settings(tmp_path)
    models = (asked.model, str(finished.folder))
    texts_of = {"corpus": asked.corpus, "control": asked.control, "max_length": 64, "evaluation_fraction": 0.2}
    report = evaluate(EvaluateSettings(model=models, **texts_of, retrieval=True, dtype="float32", quiet=True))
    base, adapted = report.models
    assert base.retrieval["domain"] == finished.result["before"]["retrieval"]
    assert adapted.retrieval["domain"]["ndcg@10"] == finished.result["after"]["retrieval"]["ndcg@10"]
    difference = adapted.retrieval["domain"]["difference"]["ndcg@10"]["difference"]
    assert difference == finished.result["differences"]["retrieval"]["ndcg@10"]["difference"]
    assert report.bm25["domain"] == finished.result["bm25"]
    assert set(report.bm25) == {"domain", "control"}
    save_tiny("roberta", tmp_path / "roberta")
    with pytest.raises(SettingsError, match="tokenizer"):
        evaluate(
            EvaluateSettings(model=(asked.model, str(tmp_path / "roberta")), **texts_of, retrieval=True, quiet=True)
        )


def test_retrieval_needs_a_corpus(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no --corpus"):
        run_evaluate(EvaluateSettings(model=("run",), task="legal/license-category", retrieval=True, quiet=True))


def test_the_cost_of_contrastive_training_is_estimated(tmp_path: Path) -> None:
    wanted = settings(tmp_path, objective="contrastive")
    known = {option.name for option in options(EstimateSettings)}
    given = {name: value for name, value in wanted.to_dict().items() if name in known and value is not None}
    found = estimate.estimate(EstimateSettings(**given, price_per_hour=None))
    assert (found.verb, found.steps) == ("adapt", 6)
    assert found.trainable_parameters > 0


def test_a_task_is_measured_before_and_after(tmp_path: Path) -> None:
    """On examples that the corpus does not hold."""
    classes = {"licence": LEGAL, "finding": MEDICAL}
    records = [
        {"id": f"{name}-{place}", "text": text, "label": name}
        for name, sentences in classes.items()
        for place, text in enumerate(texts(sentences, 80, f"task-{name}"))
    ]
    task = tmp_path / "task.jsonl"
    task.write_text("".join(json.dumps(record) + "\n" for record in records))
    finished = adapt(settings(tmp_path, task=str(task)))
    result = json.loads((finished.folder / "result.json").read_text())
    assert result["probe"]["task"] == "task"
    for when in ("before", "after"):
        assert result[when]["probe"]["macro_f1"] > 0.8
        low, high = result[when]["probe"]["interval"]["macro_f1"]
        assert low <= result[when]["probe"]["macro_f1"] <= high
    assert result["probe"]["tfidf_svm"]["macro_f1"] > 0.9
    for name in ("README.md", "report.html"):
        assert "On the task task" in (finished.folder / name).read_text()


def test_a_task_is_also_measured_after_training_on_another_field(tmp_path: Path) -> None:
    classes = {"licence": LEGAL, "finding": MEDICAL}
    records = [
        {"text": text, "label": name}
        for name, sentences in classes.items()
        for text in texts(sentences, 80, f"task-{name}")
    ]
    task = tmp_path / "task.jsonl"
    task.write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "other").mkdir()
    wanted = settings(tmp_path)
    other = adapt(
        dataclasses.replace(
            wanted, corpus=str(wanted.control), control=wanted.corpus, output=tmp_path / "other" / "run"
        )
    )
    finished = adapt(dataclasses.replace(wanted, task=str(task), wrong_field=str(other.folder)))
    found = finished.result["probe"]["wrong_field"]
    assert found["tokens_seen"] == other.result["tokens_seen"]
    difference = finished.result["after"]["probe"]["macro_f1"] - found["macro_f1"]
    assert found["difference"]["macro_f1"]["difference"] == pytest.approx(difference)
    assert f"A model adapted to {found['corpus']} instead" in (finished.folder / "report.html").read_text()


def test_test_examples_that_the_wrong_field_read_are_left_out(tmp_path: Path) -> None:
    wanted = settings(tmp_path)
    read = [json.loads(line)["text"] for line in Path(str(wanted.control)).read_text().splitlines()]
    other = texts(LEGAL, len(read), "other")
    records = [{"text": f"Re: {text}", "label": name} for name, part in (("a", read), ("b", other)) for text in part]
    task = tmp_path / "task.jsonl"
    task.write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "other").mkdir()
    swapped = dataclasses.replace(
        wanted, corpus=str(wanted.control), control=wanted.corpus, output=tmp_path / "other" / "run"
    )
    wrong = adapt(swapped)
    alone = adapt(dataclasses.replace(wanted, task=str(task), output=tmp_path / "alone"))
    both = adapt(dataclasses.replace(wanted, task=str(task), wrong_field=str(wrong.folder)))
    left_out = [one.result["probe"]["left_out_test_examples"] for one in (alone, both)]
    assert left_out[0] < left_out[1]


def test_a_wrong_field_needs_a_task_and_the_same_base_model(tmp_path: Path) -> None:
    wanted = dataclasses.replace(settings(tmp_path), wrong_field=str(tmp_path))
    with pytest.raises(SettingsError, match="no --task"):
        adapt(wanted)
    with pytest.raises(SettingsError, match="not the folder of a finished run of adapt"):
        adapt(dataclasses.replace(wanted, task="legal/license-category"))
    other = adapt(settings(tmp_path, output=tmp_path / "other"))
    moved = tmp_path / "moved"
    shutil.copytree(wanted.model, moved)
    with pytest.raises(SettingsError, match="this run starts from"):
        adapt(
            dataclasses.replace(wanted, model=str(moved), wrong_field=str(other.folder), task="legal/license-category")
        )


def test_test_examples_in_the_training_text_are_left_out(tmp_path: Path) -> None:
    wanted = settings(tmp_path)
    read = [json.loads(line)["text"] for line in Path(wanted.corpus).read_text().splitlines()]
    other = texts(MEDICAL, len(read), "other")
    # A prefix, so that the task's test examples are not the corpus's held-out documents: both are drawn by content.
    records = [{"text": f"Re: {text}", "label": name} for name, part in (("a", read), ("b", other)) for text in part]
    task = tmp_path / "task.jsonl"
    task.write_text("".join(json.dumps(record) + "\n" for record in records))
    finished = adapt(dataclasses.replace(wanted, task=str(task)))
    left_out = finished.result["probe"]["left_out_test_examples"]
    assert left_out > 0
    assert f"{left_out} test examples that are in the training text" in (finished.folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "clm"}, "for a decoder"),
        ({"objective": "contrastive", "dimensions": "8,1000"}, "not 1000"),
        ({"objective": "contrastive", "sharding": "full"}, "sharded"),
        ({"word_weight": 0.3}, "--word-weight is for --objective contrastive only"),
        ({"objective": "mlm", "dimensions": "8"}, "--dimensions is for"),
        ({"objective": "contrastive", "dimensions": "8;16"}, "separated by commas"),
    ],
)
def test_objectives_and_options_that_do_not_fit_are_refused(options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        adapt(settings(tmp_path, **options))


@pytest.mark.parametrize(
    ("architecture", "auto"),
    [pytest.param("bert", AutoModelForMaskedLM, marks=pytest.mark.slow), ("gpt2", AutoModelForCausalLM)],
)
def test_peft_loads_the_adapter_with_equal_logits_and_export_merges_it(
    architecture: str, auto: Any, tmp_path: Path
) -> None:
    finished = adapt(settings(tmp_path, architecture))
    ids = torch.tensor([[5, 9, 12, 40, 7]])
    with torch.no_grad():
        base = auto.from_pretrained(tmp_path / architecture)
        untouched = base(input_ids=ids).logits
        peft = PeftModel.from_pretrained(base, finished.folder / "adapter").eval()(input_ids=ids).logits
        ours = finished.model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        export(ExportSettings(model=str(finished.folder), output=tmp_path / "merged", quiet=True))
        merged = auto.from_pretrained(tmp_path / "merged").eval()(input_ids=ids).logits
    assert not torch.allclose(peft, untouched, atol=1e-4)
    torch.testing.assert_close(ours, peft, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(merged, peft, rtol=1e-5, atol=1e-5)


def test_evaluate_gives_the_runs_own_numbers(tmp_path: Path) -> None:
    asked = settings(tmp_path)
    finished = adapt(asked)
    report = evaluate(
        EvaluateSettings(
            model=(asked.model, str(finished.folder)),
            corpus=asked.corpus,
            control=asked.control,
            max_length=asked.max_length,
            evaluation_fraction=asked.evaluation_fraction,
            evaluation_tokens=asked.evaluation_tokens,
            dtype=asked.dtype,
            quiet=True,
        )
    )
    base, adapted = report.models
    for role in ("domain", "control"):
        assert base.scores[role]["loss"] == pytest.approx(finished.result["before"][role]["loss"], rel=1e-6)
        assert adapted.scores[role]["loss"] == pytest.approx(finished.result["after"][role]["loss"], rel=1e-5)
    difference = adapted.differences["domain"]
    assert difference["loss"] == pytest.approx(finished.result["differences"]["domain"]["loss"], rel=1e-4)


def test_an_encoder_beside_a_decoder_is_refused_before_any_text_is_read(tmp_path: Path) -> None:
    for architecture in ("bert", "llama"):
        save_tiny(architecture, tmp_path / architecture)
        (tmp_path / architecture / "model.safetensors").unlink()  # the configuration is enough
    models = (str(tmp_path / "bert"), str(tmp_path / "llama"))
    with pytest.raises(ModelError, match="encoders and decoders cannot be compared"):
        evaluate(EvaluateSettings(model=models, corpus=str(tmp_path / "not-there.txt"), quiet=True))


@pytest.mark.slow
def test_a_run_stacked_on_a_run_starts_where_that_one_ended(tmp_path: Path) -> None:
    first = adapt(settings(tmp_path))
    second = adapt(settings(tmp_path, model=str(first.folder), output=tmp_path / "second"))
    assert second.result["before"]["domain"]["loss"] == pytest.approx(first.result["after"]["domain"]["loss"], rel=1e-5)
    ids = torch.tensor([[5, 9, 12, 40, 7]])
    again = load(str(second.folder))
    with torch.no_grad():
        expected = second.model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        found = again.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dora", "full"])
def test_a_run_of_another_method_is_loaded_with_equal_logits(method: str, tmp_path: Path) -> None:
    finished = adapt(settings(tmp_path, method=method))
    again = load(str(finished.folder))
    ids = torch.tensor([[5, 9, 12, 40, 7]])
    with torch.no_grad():
        expected = finished.model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        found = again.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if method == "full":
        assert finished.result["trainable_parameters"] == finished.result["total_parameters"]


@pytest.mark.slow
@pytest.mark.parametrize("whole", [(), ("cls.predictions.transform",)])
def test_trained_weights_are_float32_under_bfloat16(whole: tuple[str, ...], tmp_path: Path) -> None:
    finished = adapt(settings(tmp_path, dtype="bfloat16", dropout=0.1, train_modules=whole))
    trained = [parameter for parameter in finished.model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert finished.model.get_input_embeddings().weight.dtype == (torch.float32 if whole else torch.bfloat16)
    assert finished.result["after"]["domain"]["loss"] < finished.result["before"]["domain"]["loss"]


@pytest.mark.slow
def test_the_same_settings_give_the_same_run_and_config_repeats_it(tmp_path: Path) -> None:
    first = adapt(settings(tmp_path))
    repeated = AdaptSettings.from_toml(first.folder / "config.toml", output=tmp_path / "again", quiet=True)
    second = adapt(repeated)
    for when in ("before", "after"):
        assert first.result[when] == second.result[when]
    one, other = (load_file(f / "adapter" / "adapter_model.safetensors") for f in (first.folder, second.folder))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_the_scores_of_an_embedded_base_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = settings(tmp_path).model
    monkeypatch.setattr(adapt_verb, "EMBEDDED", {model})
    measured: list[str] = []

    def noted(*given: Any, **named: Any) -> Any:
        measured.append(named.get("label", ""))
        return score_held_out(*given, **named)

    monkeypatch.setattr(text_runs, "score_held_out", noted)
    first = adapt(settings(tmp_path, output=tmp_path / "first"))
    assert sum(label.startswith("before") for label in measured) == 2
    measured.clear()
    second = adapt(settings(tmp_path, output=tmp_path / "second"))
    assert not any(label.startswith("before") for label in measured)
    assert second.result["before"] == first.result["before"]
    assert second.result["differences"] == first.result["differences"]
    adapt(settings(tmp_path, output=tmp_path / "third", seed=1))  # other masks
    assert sum(label.startswith("before") for label in measured) == 2


def test_an_interrupted_run_is_resumed_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = adapt(settings(tmp_path, output=tmp_path / "whole"))
    with power_cut(monkeypatch):
        adapt(settings(tmp_path))
    assert not (tmp_path / "run" / "result.json").exists()
    resumed = adapt(settings(tmp_path, resume=True))
    assert resumed.result["after"] == whole.result["after"]
    assert resumed.result["tokens_seen"] == whole.result["tokens_seen"]
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_resume_with_other_settings_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with power_cut(monkeypatch, step=1):
        adapt(settings(tmp_path))
    with pytest.raises(SettingsError, match="rank was 4, now 8"):
        adapt(settings(tmp_path, resume=True, rank=8))
    corpus = Path(settings(tmp_path).corpus)
    text = corpus.read_text()
    corpus.write_text(text + '{"text": "One more licence, which came after the start of the run."}\n')
    with pytest.raises(SettingsError, match="the text or the model has changed since the run was started"):
        adapt(settings(tmp_path, resume=True))
    corpus.write_text(text)
    adapt(settings(tmp_path, resume=True, checkpoint_every=3))


@pytest.mark.slow
def test_an_encoder_without_a_head_gets_one_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = settings(tmp_path, model=str(tmp_path / "headless"), max_steps=4)
    AutoModelForMaskedLM.from_pretrained(tmp_path / "bert").bert.save_pretrained(tmp_path / "headless")
    tiny_tokenizer("wordpiece").save_pretrained(tmp_path / "headless")
    finished = adapt(asked)
    assert finished.result["before"]["domain"]["loss"] < math.log(VOCABULARY) - 1
    base = json.loads((finished.folder / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    ids = torch.tensor([[5, 9, 12, 40, 7]])
    with torch.no_grad():
        ours = finished.model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        with_head = AutoModelForMaskedLM.from_pretrained(base)
        peft = PeftModel.from_pretrained(with_head, finished.folder / "adapter").eval()(input_ids=ids).logits
    torch.testing.assert_close(ours, peft, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_bfloat16_learns_as_float32_does(tmp_path: Path, architecture: str) -> None:
    """bfloat16 keeps 8 bits, but rounding moves a mean over hundreds of tokens far less than training does."""
    runs = {
        dtype: adapt(settings(tmp_path, architecture, dtype=dtype, output=tmp_path / dtype, max_steps=12))
        for dtype in ("float32", "bfloat16")
    }
    before, after = ({d: run.result[when]["domain"]["loss"] for d, run in runs.items()} for when in ("before", "after"))
    gain = before["float32"] - after["float32"]
    assert gain > 0.1
    assert abs(before["bfloat16"] - before["float32"]) < 0.02 * gain
    assert abs(after["bfloat16"] - after["float32"]) < 0.1 * gain


@pytest.mark.parametrize(("fast", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_cpu_computes_in_bfloat16_where_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, fast: bool, dtype: str
) -> None:
    monkeypatch.setattr(machines, "has_fast_bfloat16", lambda: fast)
    assert choose_machine(MachineOptions(device="cpu")).dtype == dtype


def test_a_run_without_control_and_examples(tmp_path: Path) -> None:
    finished = adapt(settings(tmp_path, control="none", examples=False))
    assert finished.result["before"]["control"] is None
    page = (finished.folder / "report.html").read_text()
    assert "licensor" not in page


def test_rejected_records_are_listed_in_the_run_folder(tmp_path: Path) -> None:
    asked = settings(tmp_path, on_bad_record="skip")
    with Path(asked.corpus).open("a") as file:
        file.write('{"text": 5}\n{"te\n')
    finished = adapt(asked)
    rejects = [json.loads(line) for line in (finished.folder / "rejects.jsonl").read_text().splitlines()]
    assert [reject["line"] for reject in rejects] == [61, 62]


def test_a_dry_run_says_what_would_be_done_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = run(settings(tmp_path, dry_run=True, json=True))
    assert planned["steps"] == 6
    assert planned["trainable_parameters"] > 0
    assert not (tmp_path / "run").exists()


def small_memory(monkeypatch: pytest.MonkeyPatch, megabytes: float) -> None:
    monkeypatch.setattr(training, "free_memory", lambda device: int(megabytes * 2**20))


def test_the_micro_batch_size_is_chosen_by_free_memory_and_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_memory(monkeypatch, 10_000)
    finished = adapt(settings(tmp_path, tokens_per_micro_batch=None))
    assert (finished.result["tokens_per_micro_batch"], finished.result["activation_checkpointing"]) == (464, False)
    stored = AdaptSettings.from_toml(finished.folder / "config.toml")
    assert (stored.tokens_per_micro_batch, stored.activation_checkpointing) == (464, "off")


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["auto", "on"])
def test_a_resumed_run_keeps_its_micro_batch_size_whatever_memory_is_free(
    checkpointing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are bit-identical; a newly chosen micro-batch would sum in another order."""
    small_memory(monkeypatch, 10_000)
    asked = settings(tmp_path, tokens_per_micro_batch=None, dropout=0.2)
    whole = adapt(asked)
    cut = dataclasses.replace(asked, output=tmp_path / "cut")
    steps = 0
    real = ProgressDisplay.step

    def stop(self: ProgressDisplay, *arguments: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise InterruptedError
        real(self, *arguments)

    monkeypatch.setattr(ProgressDisplay, "step", stop)
    with pytest.raises(InterruptedError):
        adapt(cut)
    monkeypatch.setattr(ProgressDisplay, "step", real)
    small_memory(monkeypatch, 1)
    resumed = adapt(dataclasses.replace(cut, resume=True, activation_checkpointing=checkpointing))
    assert resumed.result["tokens_per_micro_batch"] == 464
    assert resumed.result["activation_checkpointing"] == (checkpointing == "on")
    one, two = (load_file(run.folder / "adapter" / "adapter_model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_measuring_memory_leaves_the_model_as_it_was(method: str, tmp_path: Path) -> None:
    asked = settings(tmp_path, method=method, tokens_per_micro_batch=None, activation_checkpointing="on")
    machine = choose_machine(asked)
    before = load(asked.model)
    job = adapt_prepare.set_up(asked, machine, ProgressDisplay(quiet=True))
    model = job.base.model
    assert [(name, type(module)) for name, module in model.named_modules()] == [
        (name, type(module)) for name, module in before.model.named_modules()
    ]
    for (name, parameter), expected in zip(model.named_parameters(), before.model.parameters(), strict=True):
        assert torch.equal(parameter, expected), name
        assert parameter.requires_grad == expected.requires_grad
        assert parameter.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not model.training
    assert not ActivationCheckpointing(model).on


def test_a_warning_says_beforehand_that_memory_may_run_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_memory(monkeypatch, 1)
    planned = run(settings(tmp_path, dry_run=True, json=True, quiet=False, tokens_per_micro_batch=None))
    assert planned["settings"]["activation_checkpointing"] == "on"
    assert planned["settings"]["tokens_per_micro_batch"] <= 64
    assert "memory may run out" in capsys.readouterr().err


def test_checkpointing_a_model_without_layers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActivationCheckpointing, "possible", False)
    with pytest.raises(SettingsError, match="--activation-checkpointing on"):
        adapt(settings(tmp_path, activation_checkpointing="on"))


@pytest.mark.slow
@pytest.mark.parametrize("short", [False, True])
def test_estimate_measures_both_ways_and_leaves_nothing(
    short: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_memory(monkeypatch, 1 if short else 10_000)
    asked = settings(tmp_path, tokens_per_micro_batch=None).to_dict()
    known = EstimateSettings(corpus=asked["corpus"]).to_dict().keys()
    found = estimate.run(EstimateSettings(**{name: value for name, value in asked.items() if name in known}))
    assert found["steps"] == 6
    assert found["tokens_per_second"] > 0
    assert found["minutes"] > 0
    off, on = found["ways"]
    assert (off["activation_checkpointing"], on["activation_checkpointing"]) == (False, True)
    assert found["activation_checkpointing"] == short
    assert found["peak_memory_bytes"] == (on if short else off)["peak_memory_bytes"]
    assert on["peak_memory_bytes"] < off["peak_memory_bytes"]
    assert (off["tokens_per_second"] is None) == short
    shown = capsys.readouterr().out
    assert ("not tried" in shown) == short
    assert ("on (chosen by adapt)" in shown) == short
    assert not (tmp_path / "run").exists()


def test_the_default_folder_is_named_after_corpus_and_model() -> None:
    assert output_folder(AdaptSettings(corpus="legal")) == Path("runs/legal-minilm")
    asked = AdaptSettings(corpus="data/my texts.jsonl", model="answerdotai/ModernBERT-base")
    assert output_folder(asked) == Path("runs/my-texts-ModernBERT-base")


def test_a_japanese_corpus_is_adapted_to(tmp_path: Path) -> None:
    corpus = tmp_path / "法律.jsonl"
    lines = [
        json.dumps({"text": f"第{i}条　この法律は、水路業務の{i * 37 % 101}号に関し必要な事項を定める。" * (1 + i % 3)})
        for i in range(1, 80)
    ]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    finished = adapt(settings(tmp_path, "gpt2", corpus=str(corpus)))
    assert finished.result["after"]["domain"]["bytes"] > 0
