"""`instruct` from conversations to run folder, with tiny models: its numbers, its template, resume, what it refuses."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from instruct_jobs import ANSWERS, TEMPLATE, save_chatty, settings, word, write_conversations
from peft import PeftModel
from safetensors.torch import load_file
from tiny_models import VOCABULARY, save_tiny, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, T5Config, T5ForConditionalGeneration
from verb_jobs import power_cut
from verb_jobs import settings as adapt_settings

from domain_ft.errors import CorpusError, ModelError, SettingsError
from domain_ft.models.base import load
from domain_ft.verbs.adapt.run import adapt
from domain_ft.verbs.export.run import export
from domain_ft.verbs.export.settings import ExportSettings
from domain_ft.verbs.instruct.run import instruct, output_folder, run
from domain_ft.verbs.instruct.settings import InstructSettings
from domain_ft.verbs.shared import answering
from domain_ft.verbs.shared.answering import control_of
from domain_ft.verbs.shared.lineage import adapted_runs

ANSWER_KEYS = {"exact_match", "token_f1", "rouge_l", "chrf", "end_of_turn_rate", "distinct_1", "distinct_2"}


@pytest.mark.parametrize(
    ("architecture", "template"), [("llama", True), pytest.param("gpt2", False, marks=pytest.mark.slow)]
)
def test_a_run_from_conversations_to_folder(architecture: str, template: bool, tmp_path: Path) -> None:
    finished = instruct(settings(tmp_path, architecture, template=template, max_steps=30))
    result = json.loads((finished.folder / "result.json").read_text())
    assert (result["command"], result["objective"], result["format"]) == ("instruct", "instructions", "chat")
    assert result["template"] == ("model" if template else "plain")
    assert result["examples"]["train"] + result["examples"]["test"] == 40
    for when in ("before", "after"):
        for role in ("test", "control"):
            assert set(result[when][role]) == {"loss", "perplexity", "bits_per_byte", "tokens", "bytes"}
        assert result[when]["answers"].keys() >= ANSWER_KEYS
    assert result["after"]["test"]["loss"] < result["before"]["test"]["loss"]
    assert result["differences"]["test"]["interval"][1] < 0
    assert result["after"]["test"]["tokens"] == result["before"]["test"]["tokens"]
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
    assert len(answers) == 4
    assert all(answer["reference"] in ANSWERS for answer in answers)


def test_tokens_are_counted_as_by_an_independent_count(tmp_path: Path) -> None:
    """Two epochs: the answers and the tokens that end their turns are trained, and everything is read."""
    asked = settings(tmp_path, epochs=2, max_steps=None)
    finished = instruct(asked)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    test = {json.loads(line)["id"] for line in (finished.folder / "answers.jsonl").read_text().splitlines()}
    read = trained = 0
    held_out = set(json.loads((finished.folder / "scores" / "before-test.json").read_text())["documents"])
    assert test <= held_out
    for line, text in enumerate(Path(asked.data).read_text().splitlines(), 1):
        if f"questions.jsonl:{line}" in held_out:
            continue
        question, answer = (message["content"] for message in json.loads(text)["messages"])
        prompt = f"[user] {question}<|endoftext|>[assistant] "
        whole = tokenizer(f"{prompt}{answer}<|endoftext|>", return_offsets_mapping=True)
        read += len(whole["input_ids"])
        trained += sum(end > len(prompt) for _, end in whole["offset_mapping"])
    assert (finished.result["tokens_seen"], finished.result["tokens_trained"]) == (2 * read, 2 * trained)


@pytest.mark.parametrize(
    ("architecture", "template"), [pytest.param("llama", True, marks=pytest.mark.slow), ("gpt2", False)]
)
def test_peft_loads_the_adapter_with_equal_logits_and_export_merges_it(
    architecture: str, template: bool, tmp_path: Path
) -> None:
    finished = instruct(settings(tmp_path, architecture, template=template))
    ids = torch.tensor([[5, 9, 12, 40, 7]])
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(tmp_path / architecture)
        untouched = base(input_ids=ids).logits
        peft = PeftModel.from_pretrained(base, finished.folder / "adapter").eval()(input_ids=ids).logits
        ours = finished.model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        export(ExportSettings(model=str(finished.folder), output=tmp_path / "merged", quiet=True))
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(input_ids=ids).logits
    assert not torch.allclose(peft, untouched, atol=1e-4)
    torch.testing.assert_close(ours, peft, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(merged, peft, rtol=1e-5, atol=1e-5)
    said = AutoTokenizer.from_pretrained(tmp_path / "merged").apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
    )
    plain = "### User:\nx\n\n### Assistant:\n"
    assert said == ("[user] x<|endoftext|>[assistant] " if template else plain)


@pytest.mark.slow
def test_a_model_learns_to_answer_and_to_stop(tmp_path: Path) -> None:
    asked = settings(tmp_path, max_steps=60, learning_rate=1e-2, rank=8)
    records = [json.loads(line) for line in Path(asked.data).read_text().splitlines()]
    for record in records:
        record["messages"][1]["content"] = "Ok."
    Path(asked.data).write_text("".join(json.dumps(record) + "\n" for record in records))
    finished = instruct(asked)
    after = finished.result["after"]["answers"]
    assert (after["exact_match"], after["end_of_turn_rate"]) == (1.0, 1.0)
    assert finished.result["before"]["answers"]["exact_match"] == 0.0


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = instruct(settings(tmp_path, output=tmp_path / "whole", dropout=0.1))
    with power_cut(monkeypatch):
        instruct(settings(tmp_path, dropout=0.1))
    resumed = instruct(settings(tmp_path, dropout=0.1, resume=True))
    for key in ("before", "after", "tokens_seen", "tokens_trained"):
        assert resumed.result[key] == whole.result[key]
    one, other = (load_file(f / "adapter" / "adapter_model.safetensors") for f in (whole.folder, resumed.folder))
    assert all(torch.equal(one[name], other[name]) for name in one)


class Tomorrow(date):
    @classmethod
    def today(cls) -> Tomorrow:
        return cls(2032, 2, 29)


DATED = "{{ strftime_now('%d %b %Y') }}. " + TEMPLATE


@pytest.mark.slow
def test_a_run_is_resumed_with_the_date_on_which_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_chatty("llama", tmp_path / "llama", DATED)
    whole = instruct(settings(tmp_path, output=tmp_path / "whole", template_date="2026-11-23"))
    with power_cut(monkeypatch):
        instruct(settings(tmp_path, template_date="2026-11-23"))
    monkeypatch.setattr(answering, "date", Tomorrow)
    resumed = instruct(settings(tmp_path, resume=True))
    assert resumed.result["after"] == whole.result["after"]
    assert InstructSettings.from_toml(resumed.folder / "config.toml").template_date == "2026-11-23"
    another = instruct(settings(tmp_path, output=tmp_path / "another"))
    assert InstructSettings.from_toml(another.folder / "config.toml").template_date == "2032-02-29"
    assert another.result["after"] != whole.result["after"]


def test_an_invalid_date_is_refused_and_a_date_that_the_template_does_not_use_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"(?s)--template-date 2026-02-30: day.*YYYY-MM-DD"):
        instruct(settings(tmp_path, output=tmp_path / "never", template_date="2026-02-30"))
    folder = instruct(settings(tmp_path, max_steps=1)).folder
    assert InstructSettings.from_toml(folder / "config.toml").template_date is None


def test_resume_with_other_conversations_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with power_cut(monkeypatch, step=1):
        instruct(settings(tmp_path))
    write_conversations(tmp_path / "questions.jsonl", 39)
    with pytest.raises(SettingsError, match="the text or the model has changed since the run was started"):
        instruct(settings(tmp_path, resume=True))


@pytest.mark.slow
def test_adapt_and_then_instruct(tmp_path: Path) -> None:
    save_chatty("llama", tmp_path / "llama")
    first = adapt(adapt_settings(tmp_path, "llama"))
    finished = instruct(settings(tmp_path, model=str(first.folder), output=tmp_path / "taught"))
    assert [run.corpus for run in adapted_runs(str(finished.folder))] == [adapt_settings(tmp_path, "llama").corpus]
    adapted = load(str(first.folder))
    again = load(str(finished.folder))
    ids = torch.tensor([[5, 9, 12, 40, 7]])
    with torch.no_grad():
        expected = finished.model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        found = again.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        before = adapted.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-4)
    assert again.tokenizer.chat_template == TEMPLATE


def test_full_training_keeps_the_template_and_the_end_of_turn(tmp_path: Path) -> None:
    finished = instruct(settings(tmp_path, "gpt2", template=False, method="full", learning_rate=1e-3))
    model = AutoModelForCausalLM.from_pretrained(finished.folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(finished.folder / "model")
    assert "### Assistant:" in tokenizer.chat_template
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id
    assert finished.result["trainable_parameters"] == finished.result["total_parameters"]


def test_the_control_is_legal_unless_another_is_given(tmp_path: Path) -> None:
    assert control_of(InstructSettings(data="x")) == "legal"
    assert control_of(InstructSettings(data="x", control="none")) is None
    assert control_of(InstructSettings(data="x", control="mine.txt")) == "mine.txt"


def test_a_run_with_a_test_file_and_without_control_and_examples(tmp_path: Path) -> None:
    test = write_conversations(tmp_path / "held-out.jsonl", 6)
    finished = instruct(settings(tmp_path, test=str(test), control="none", examples=False))
    assert finished.result["before"]["control"] is None
    assert finished.result["examples"]["test"] == 6
    assert not (finished.folder / "answers.jsonl").exists()
    page = (finished.folder / "report.html").read_text() + (finished.folder / "README.md").read_text()
    assert "It is a" not in page
    assert not any(word(index) in page for index in range(40))


def test_a_conversation_without_an_answer_within_the_limit_is_dropped(tmp_path: Path) -> None:
    test = write_conversations(tmp_path / "test.jsonl", 50)
    asked = settings(tmp_path, generate_examples=0, test=str(test))
    test.write_text("".join(test.read_text(encoding="utf-8").splitlines(keepends=True)[40:]), encoding="utf-8")
    with Path(asked.data).open("a") as file:
        messages = [{"role": "user", "content": "long " * 200}, {"role": "assistant", "content": "Yes."}]
        file.write(json.dumps({"messages": messages}) + "\n")
    finished = instruct(asked)
    assert finished.result["examples"] == {"train": 40, "test": 10, "rejected": 0, "dropped": 1, "cut": 0}
    assert finished.result["after"]["answers"] is None


def test_conversations_that_hold_special_tokens_are_rejected_once_and_not_asked(tmp_path: Path) -> None:
    asked = settings(tmp_path, on_bad_record="skip", test_fraction=0.5, generate_examples=100)
    records = Path(asked.data).read_text(encoding="utf-8").splitlines()
    for index in range(0, 40, 4):
        records[index] = records[index].replace("What is", "What is <|endoftext|>")
    Path(asked.data).write_text("\n".join(records) + "\n", encoding="utf-8")
    finished = instruct(asked)
    counts = finished.result["examples"]
    assert (counts["train"] + counts["test"], counts["rejected"], counts["dropped"]) == (30, 10, 0)
    rejected = [json.loads(line)["line"] for line in (finished.folder / "rejects.jsonl").read_text().splitlines()]
    assert sorted(rejected) == list(range(1, 41, 4))
    answered = [json.loads(line) for line in (finished.folder / "answers.jsonl").read_text().splitlines()]
    assert len(answered) == counts["test"]
    assert not any("endoftext" in one["prompt"] for one in answered)


def test_a_dry_run_says_what_would_be_done_and_leaves_nothing(tmp_path: Path) -> None:
    planned = run(settings(tmp_path, dry_run=True, json=True))
    assert planned["steps"] == 6
    assert 0 < planned["tokens_trained"] < planned["tokens"]
    assert not (tmp_path / "run").exists()


def test_references_that_are_longer_than_an_answer_may_be_are_counted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The token that ends the turn counts."""
    tokenizer = AutoTokenizer.from_pretrained(settings(tmp_path).model)
    tokens = [len(tokenizer(answer)["input_ids"]) for answer in ANSWERS]
    for limit, within in ((min(tokens), 0), (max(tokens) + 1, 4)):
        asked = settings(tmp_path, output=tmp_path / str(limit), max_new_tokens=limit, max_steps=1, quiet=False)
        assert instruct(asked).result["references_within_limit"] == within
        said = capfd.readouterr().err
        assert (f"4 of the 4 reference answers are longer than --max-new-tokens {limit}" in said) is (within == 0)


@pytest.mark.slow
def test_a_repetition_penalty_makes_answers_repeat_less(tmp_path: Path) -> None:
    said = []
    for penalty in (1.0, 3.0):
        asked = settings(tmp_path, output=tmp_path / str(penalty), repetition_penalty=penalty, max_steps=1)
        folder = instruct(asked).folder
        said.append([json.loads(line)["before"] for line in (folder / "answers.jsonl").read_text().splitlines()])
    fewest, most = (max(len(set(text)) for text in texts) for texts in said)
    assert fewest < most  # different characters: without a penalty the tiny model repeats a few


def test_models_and_lengths_that_cannot_work_are_refused(tmp_path: Path) -> None:
    save_tiny("bert", tmp_path / "bert")
    with pytest.raises(ModelError, match=r"bert' is an encoder, which cannot generate text"):
        instruct(settings(tmp_path, model=str(tmp_path / "bert")))
    T5ForConditionalGeneration(
        T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path / "t5")
    tiny_tokenizer("gpt2").save_pretrained(tmp_path / "t5")
    with pytest.raises(ModelError, match="is a model of type 't5' with an encoder and a decoder"):
        instruct(settings(tmp_path, model=str(tmp_path / "t5"), output=tmp_path / "another"))
    with pytest.raises(CorpusError, match=r"nothing can be learned from 32 conversations; the first: .* is 8"):
        instruct(settings(tmp_path, output=tmp_path / "other", max_length=8))


def test_the_folder_is_named_by_data_and_model() -> None:
    named = output_folder(InstructSettings(data="some/where/med quad.jsonl.gz", model="runs/medical"))
    assert named == Path("runs/med-quad-medical")
