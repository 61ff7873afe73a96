"""`data estimate` of conversations: what `instruct` would read and train, what it costs, and what should be fixed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conversation_files import alpacas, chats, left_in, save_decoder, words, write
from rich.cells import cell_len
from transformers import AutoTokenizer

from domain_ft.corpus.conversations.reading import ConversationSource, open_conversations
from domain_ft.corpus.conversations.rendering import ChatTemplate
from domain_ft.corpus.conversations.rows import encode_conversations
from domain_ft.models import generation
from domain_ft.models.generation import Generated
from domain_ft.verbs.adapt import prepare as adapt_prepare
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.data import estimate, estimate_conversations
from domain_ft.verbs.data.estimate_conversations import answering_minutes, holds_conversations
from domain_ft.verbs.data.settings import EstimateSettings
from domain_ft.verbs.instruct import prepare as instruct_prepare
from domain_ft.verbs.instruct import run as instruct_run
from domain_ft.verbs.instruct.settings import InstructSettings
from domain_ft.verbs.shared import answering


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "tiny-chat")


@pytest.mark.parametrize(
    ("record", "changes", "expected"),
    [
        (chats(1)[0], {}, True),
        (alpacas(1)[0], {}, True),
        ({"text": "A sentence."}, {}, False),
        ({"text": "A sentence."}, {"prompt_field": "text", "answer_field": "text"}, True),
        (alpacas(1)[0], {"text_field": "output"}, False),
        (chats(1)[0], {"kind": "text"}, False),
        ({"text": "A sentence."}, {"kind": "conversations"}, True),
    ],
)
def test_which_files_are_estimated_as_conversations(
    record: Any, changes: dict[str, Any], expected: bool, tmp_path: Path
) -> None:
    data = write(tmp_path / "data.jsonl", [record])
    assert holds_conversations(EstimateSettings(corpus=str(data), **changes)) == expected


def test_a_name_or_a_folder_is_a_corpus(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", chats(3))
    assert not holds_conversations(EstimateSettings(corpus="legal"))
    assert not holds_conversations(EstimateSettings(corpus=str(tmp_path)))
    assert not holds_conversations(EstimateSettings(corpus=str(tmp_path / "no-such.jsonl")))


def settings_of(data: Path, decoder: Path) -> dict[str, Any]:
    return {
        "corpus": str(data),
        "model": str(decoder),
        "control": "none",
        "max_length": 256,
        "tokens_per_step": 1000,
        "rank": 4,
        "dtype": "float32",
        "quiet": True,
    }


def estimated(data: Path, decoder: Path, **changes: Any) -> dict[str, Any]:
    return estimate.run(EstimateSettings(**settings_of(data, decoder) | changes))


def test_the_tokens_that_a_run_would_read_and_train(
    decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are those of the rows that `instruct` makes, in each epoch; the costs follow from them."""
    data = write(tmp_path / "chats.jsonl", chats(80))
    found = estimated(data, decoder, epochs=2.0, price_per_hour=6.0, price_per_token=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    split = open_conversations(ConversationSource(str(data)))
    rows = encode_conversations(split.train, tokenizer, ChatTemplate.of(tokenizer), max_length=256)
    assert found["verb"] == "instruct"
    assert found["corpus_tokens"] == rows.tokens
    assert found["tokens"] == 2 * rows.tokens
    assert found["examples"] == {
        "format": "chat",
        "train": len(split.train),
        "test": len(split.test),
        "dropped": 0,
        "cut": 0,
        "trained_tokens": rows.trained_tokens,
        "run_trained_tokens": 2 * rows.trained_tokens,
        "rejected": 0,
        "unread_fields": {},
    }
    assert found["machine_cost"] == pytest.approx(6.0 * found["minutes"] / 60)
    assert found["service_cost"] == pytest.approx(2e-6 * rows.tokens)
    assert min(found["training_minutes"], found["evaluation_minutes"], found["peak_memory_bytes"]) > 0
    assert found["warnings"] == ()
    shown = capsys.readouterr().out
    assert f"{rows.trained_tokens:,} in answers" in " ".join(shown.split())
    assert "(chosen by instruct)" in shown
    assert "cost" in shown
    assert max(map(cell_len, shown.splitlines())) <= 80
    assert left_in(tmp_path) == ["chats.jsonl"]


@pytest.mark.slow
def test_the_run_then_reads_and_trains_what_was_estimated(decoder: Path, tmp_path: Path) -> None:
    """Also if the run ends within an epoch."""
    data = write(tmp_path / "chats.jsonl", chats(60))
    asked: dict[str, Any] = {"max_steps": 7, "generate_examples": 0}
    found = estimated(data, decoder, **asked)
    given = {name: value for name, value in settings_of(data, decoder).items() if name != "corpus"}
    finished = instruct_run.instruct(InstructSettings(data=str(data), output=tmp_path / "run", **given, **asked)).result
    assert found["steps"] == finished["steps"] == 7
    assert found["examples"]["run_trained_tokens"] == finished["tokens_trained"]
    assert {name: found["examples"][name] for name in ("train", "test", "dropped", "cut")} == {
        name: finished["examples"][name] for name in ("train", "test", "dropped", "cut")
    }
    assert found["tokens"] == pytest.approx(finished["tokens_seen"], rel=0.05)  # whole examples fill each step
    assert found["trainable_parameters"] == finished["trainable_parameters"]


def test_problems_to_fix_before_the_run(decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Few examples, all with one answer and one wording, some too long: each has a warning."""
    prompts = [f"Please classify the following text: {words(i, 40 if i % 3 == 0 else 4)}" for i in range(30)]
    data = write(tmp_path / "labels.jsonl", ({"prompt": p, "completion": "Toxic or not: yes."} for p in prompts))
    found = estimated(data, decoder, max_length=160, epochs=1.0)
    said = "\n".join(found["warnings"])
    assert found["examples"]["dropped"] > 0
    assert "few to train on" in said
    assert f"{found['examples']['dropped']} examples have no answer within --max-length" in said
    assert "100% of the examples have the answer “Toxic or not: yes.”" in said
    assert "100% of the prompts contain “Please classify the following”" in said
    assert capsys.readouterr().out.count("warning: ") == len(found["warnings"]) == 4


def test_answers_take_the_time_of_their_prompts_and_of_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a fake clock: 2 s for the prompts of a batch and 0.5 s for a token; the fake model stops after six tokens."""
    clock = [0.0]

    def generate(_: Any, prompts: list[str], sampling: Any, **__: Any) -> list[Generated]:
        tokens = min(sampling.max_new_tokens, 6)
        clock[0] += 2.0 + 0.5 * tokens
        return [Generated("", tokens, True, 0.0) for _ in prompts]

    monkeypatch.setattr(generation, "generate", generate)
    monkeypatch.setattr(estimate_conversations, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    job: Any = SimpleNamespace(
        base=None,
        machine=SimpleNamespace(accelerator=SimpleNamespace(autocast=contextlib.nullcontext)),
        questions=[SimpleNamespace(prompt="")] * (answering.ANSWERED_AT_ONCE + 1),
        settings=SimpleNamespace(max_new_tokens=100),
    )
    before_and_after, batches = 2, 2
    assert answering_minutes(job) == pytest.approx(before_and_after * batches * (2.0 + 0.5 * 100) / 60)
    job.questions = []
    assert answering_minutes(job) == 0.0


def test_only_given_options_are_passed_to_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def set_up(settings: Any, *_: Any) -> None:
        given.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(adapt_prepare, "set_up", set_up)
    monkeypatch.setattr(instruct_prepare, "set_up", set_up)
    asked: dict[str, Any] = {"learning_rate": 0.5, "max_steps": 7, "quiet": True}
    of_instruct: dict[str, Any] = {
        "test": "t.jsonl",
        "system": "Be brief.",
        "generate_examples": 3,
        "max_new_tokens": 9,
    }
    data = write(tmp_path / "chats.jsonl", chats(3))
    for corpus in ("legal", str(data)):
        with pytest.raises(KeyboardInterrupt):
            estimate.estimate(EstimateSettings(corpus=corpus, **of_instruct, **asked))
    assert given == [
        AdaptSettings(corpus="legal", **asked),
        InstructSettings(data=str(data), **of_instruct, **asked),
    ]
