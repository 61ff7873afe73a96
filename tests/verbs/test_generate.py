"""`generate`: answers to a prompt, to a file in order, also after interruptions, and in a conversation."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tiny_models import save_talkative, save_tiny
from transformers import AutoConfig, AutoTokenizer

from domain_ft.cli import main
from domain_ft.corpus.conversations.conversation import Turn
from domain_ft.corpus.conversations.rendering import ChatTemplate
from domain_ft.errors import CorpusError, ModelError, RecordError, SettingsError
from domain_ft.models.base import BaseModel, load
from domain_ft.models.generation import Sampling
from domain_ft.models.generation import generate as answers_of
from domain_ft.models.lora import LoraConfig, apply_lora
from domain_ft.models.peft_format import save_adapter
from domain_ft.terminal_text import printable
from domain_ft.verbs.generate import run as generate_verb
from domain_ft.verbs.generate.run import generate
from domain_ft.verbs.generate.settings import GenerateSettings
from domain_ft.verbs.generate.typewriter import Typewriter
from domain_ft.verbs.shared import chat_model as speaker_module
from domain_ft.verbs.shared.chat_model import ChatModel

NEW = 8
QUESTIONS = ("What is a licence?", "骨とは何ですか🙂", "Why?", "Name the bones of the skeletal system.", "Who?")
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% if message.role == 'assistant' %}"
    "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama with a short chat template."""
    folder = save_talkative("llama", tmp_path_factory.mktemp("generate") / "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on `model`, with random updates."""
    folder = tmp_path_factory.mktemp("generate") / "run"
    base = load(str(model))
    lora = apply_lora(base.model, LoraConfig(rank=4, targets="attention"))
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in lora.layers.values():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=draws))
    save_adapter(base.model, folder / "adapter", base_name=base.source, revision=base.revision)
    (folder / "config.toml").write_text("")
    (folder / "result.json").write_text('{"model": "it"}')
    return folder


def asked(model: Path, **changes: Any) -> GenerateSettings:
    values = {"model": str(model), "max_new_tokens": NEW, "dtype": "float32", "quiet": True, **changes}
    return GenerateSettings(**values)


def prompts_file(path: Path, questions: Iterable[str] = QUESTIONS) -> Path:
    lines = [json.dumps({"prompt": question}, ensure_ascii=False) for question in questions]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def expected(model: Path, *turns: Turn) -> str:
    """What the model answers to a conversation, without the verb."""
    base = load(str(model))
    template = ChatTemplate.of(base.tokenizer)
    (answer,) = answers_of(base, [template.prompt(turns)], Sampling(NEW), stop_tokens=template.stop_tokens)
    return answer.text


def user(text: str) -> Turn:
    return Turn("user", text)


# --- A prompt ---------------------------------------------------------------------------------------------------------


def test_a_prompt_is_answered(model: Path) -> None:
    out = io.StringIO()
    result = generate(asked(model, prompt=QUESTIONS[0]), stdout=out)
    assert result["text"] == expected(model, user(QUESTIONS[0]))
    assert out.getvalue() == result["text"] + "\n"
    assert (result["command"], result["model"], result["prompt"]) == ("generate", str(model), QUESTIONS[0])
    assert (result["tokens"], result["stopped"]) == (NEW, False)
    assert "against" not in result


def test_as_json_the_answer_is_in_the_result_alone(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--model", str(model), "--prompt", "Why?", "--max-new-tokens", str(NEW), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == expected(model, user("Why?"))


def test_a_system_turn_comes_first(model: Path) -> None:
    result = generate(asked(model, prompt="Why?", system="Be brief."), stdout=io.StringIO())
    assert result["text"] == expected(model, Turn("system", "Be brief."), user("Why?")) != expected(model, user("Why?"))


def test_a_raw_prompt_is_continued_unchanged(model: Path) -> None:
    base = load(str(model))
    (answer,) = answers_of(base, ["The licensee"], Sampling(NEW), stop_tokens=())
    assert generate(asked(model, prompt="The licensee", raw=True), stdout=io.StringIO())["text"] == answer.text


def test_a_raw_prompt_begins_with_the_tokens_that_the_tokenizer_adds(tmp_path: Path) -> None:
    folder = save_talkative("opt", tmp_path / "opt")
    base = load(str(folder))
    for begun in ("The licensee", "<s>The licensee"):
        (answer,) = answers_of(base, ["<s>The licensee"], Sampling(NEW), stop_tokens=())
        assert generate(asked(folder, prompt=begun, raw=True), stdout=io.StringIO())["text"] == answer.text


def test_without_a_template_the_plain_one_is_used(tmp_path: Path) -> None:
    folder = save_talkative("gpt2", tmp_path / "gpt2")
    assert generate(asked(folder, prompt="Why?"), stdout=io.StringIO())["text"] == expected(folder, user("Why?"))


def test_the_adapter_of_a_run_is_merged(finished: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[BaseModel] = []

    def note(*args: Any, **options: Any) -> BaseModel:
        loaded.append(load(*args, **options))
        return loaded[-1]

    monkeypatch.setattr(speaker_module, "load", note)
    result = generate(asked(finished, prompt="Why?"), stdout=io.StringIO())
    assert result["text"] == expected(finished, user("Why?")) != expected(model, user("Why?"))
    assert not any("lora" in name for name, _ in loaded[0].model.named_modules())


def test_two_models_answer_side_by_side(finished: Path, model: Path) -> None:
    out = io.StringIO()
    result = generate(asked(finished, prompt="Why?", against="base"), stdout=out)
    assert result["text"] == expected(finished, user("Why?"))
    assert result["against"]["text"] == expected(model, user("Why?"))
    assert Path(result["against"]["model"]) == model.resolve()
    assert max(cell_len(line) for line in out.getvalue().splitlines()) <= 80
    with pytest.raises(ModelError, match="is not a run"):
        generate(asked(model, prompt="Why?", against="base"), stdout=out)


# --- A file -----------------------------------------------------------------------------------------------------------


def test_a_file_is_answered_in_its_order(model: Path, tmp_path: Path) -> None:
    source = prompts_file(tmp_path / "prompts.jsonl")
    result = generate(asked(model, input=str(source), output=tmp_path / "out.jsonl", batch_size=2))
    found = lines(tmp_path / "out.jsonl")
    assert [line["text"] for line in found] == [expected(model, user(question)) for question in QUESTIONS]
    assert [line["id"] for line in found] == [f"prompts.jsonl:{number}" for number in range(1, 6)]
    assert set(found[0]) == {"id", "text", "tokens", "stopped", "seconds"}
    assert (result["prompts"], result["answered"], result["rejected"], result["done_before"]) == (5, 5, 0, 0)
    assert result["tokens"] == sum(line["tokens"] for line in found)
    assert result["stopped"] == sum(line["stopped"] for line in found)


def test_the_answer_that_a_file_has_is_the_reference(model: Path, tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "Why?"), ("assistant", "No."), ("user", "Who?"), ("assistant", "I.")]
    messages = [{"role": role, "content": content} for role, content in turns]
    source = tmp_path / "chat.jsonl"
    source.write_text(
        "\n".join(json.dumps({"name": name, "messages": messages[:end]}) for name, end in (("a", 5), ("b", 4))) + "\n"
    )
    generate(asked(model, input=str(source), id_field="name", output=tmp_path / "out.jsonl"))
    answer = expected(model, *(Turn(role, content) for role, content in turns[:4]))
    first, second = lines(tmp_path / "out.jsonl")
    assert (first["id"], first["reference"], first["text"]) == ("a", "I.", answer)
    assert (second["id"], second["text"]) == ("b", answer)
    assert "reference" not in second


def test_lines_of_standard_input_are_prompts(model: Path) -> None:
    out = io.StringIO()
    generate(asked(model, input="-"), stdin=io.BytesIO("Why?\n骨とは何ですか🙂\n".encode()), stdout=out)
    found = [json.loads(line)["text"] for line in out.getvalue().splitlines()]
    assert found == [expected(model, user("Why?")), expected(model, user(QUESTIONS[1]))]


def test_both_models_answer_a_file(finished: Path, model: Path, tmp_path: Path) -> None:
    source = prompts_file(tmp_path / "prompts.jsonl", QUESTIONS[:2])
    result = generate(asked(finished, input=str(source), output=tmp_path / "out.jsonl", against=str(model)))
    assert result["against"] == {"model": str(model)}
    for line, question in zip(lines(tmp_path / "out.jsonl"), QUESTIONS, strict=False):
        assert line["text"] == expected(finished, user(question))
        assert line["against"]["text"] == expected(model, user(question))
        assert set(line["against"]) == {"text", "tokens", "stopped", "seconds"}


@pytest.mark.parametrize("do_sample", [False, True])
def test_an_interrupted_call_is_continued(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, do_sample: bool
) -> None:
    monkeypatch.setattr(generate_verb, "BATCHES", 1)
    source = prompts_file(tmp_path / "prompts.jsonl")
    source.write_text("broken\n" + source.read_text(encoding="utf-8"), encoding="utf-8")
    choice = {"input": str(source), "do_sample": do_sample, "batch_size": 2}
    generate(asked(model, output=tmp_path / "whole.jsonl", **choice))
    whole = (tmp_path / "whole.jsonl").read_bytes()
    texts = [line["text"] for line in lines(tmp_path / "whole.jsonl")]
    for cut in (0, 1, len(whole) // 2, len(whole) - 3, len(whole)):
        output = tmp_path / f"cut-{cut}.jsonl"
        output.write_bytes(whole[:cut])
        shutil.copy(tmp_path / "whole.jsonl.state.jsonl", tmp_path / f"{output.name}.state.jsonl")
        result = generate(asked(model, output=output, resume=True, **choice))
        assert [line["text"] for line in lines(output)] == texts
        assert (result["prompts"], result["rejected"]) == (5, 1)
        assert result["done_before"] == whole[:cut].count(b"\n")
        assert len(lines(tmp_path / f"{output.name}.rejects.jsonl")) == 1


def test_answers_of_another_model_or_other_options_are_not_mixed(model: Path, finished: Path, tmp_path: Path) -> None:
    source = prompts_file(tmp_path / "prompts.jsonl", QUESTIONS[:2])
    output = tmp_path / "out.jsonl"
    begun = {"input": str(source), "output": output, "do_sample": True}
    generate(asked(model, **begun))
    before = output.read_bytes()
    for name, changes, said in (
        (finished, {}, "its answers are from another model"),
        (model, {"against": str(finished)}, "its answers are from another model"),
        (model, {"max_new_tokens": 3}, "started with --max-new-tokens 8, this call has --max-new-tokens 3"),
        (model, {"seed": 1}, "started with --seed 0, this call has --seed 1"),
        (model, {"do_sample": False}, "started with --do-sample, this call has --no-do-sample"),
        (model, {"system": "Be brief."}, "started with no --system, this call has --system Be brief."),
        (model, {"repetition_penalty": 1.5}, "--repetition-penalty 1.5"),
        (model, {"dtype": "bfloat16"}, "started with --dtype float32, this call has --dtype bfloat16"),
    ):
        with pytest.raises(SettingsError, match=said):
            generate(asked(name, **{**begun, "resume": True, **changes}))
        assert output.read_bytes() == before
    result = generate(asked(model, **begun, resume=True, batch_size=1))
    assert (result["done_before"], result["answered"]) == (2, 0)


def test_an_output_keeps_the_day_on_which_it_was_begun(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dated = Path(shutil.copytree(model, tmp_path / "dated"))
    tokenizer = AutoTokenizer.from_pretrained(dated)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}. " + TEMPLATE
    tokenizer.save_pretrained(dated)
    prompts: list[str] = []

    def told(chat_model: ChatModel, asked_for: list[str], *others: Any, **more: Any) -> Any:
        prompts.extend(asked_for)
        return answer(chat_model, asked_for, *others, **more)

    answer = ChatModel.answer
    monkeypatch.setattr(ChatModel, "answer", told)
    source, output = prompts_file(tmp_path / "prompts.jsonl", QUESTIONS[:1]), tmp_path / "out.jsonl"
    monkeypatch.setattr(generate_verb, "date", _Day(2024, 5, 17))
    generate(asked(dated, input=str(source), output=output))
    prompts_file(source, QUESTIONS[:2])
    monkeypatch.setattr(generate_verb, "date", _Day(2024, 5, 18))
    generate(asked(dated, input=str(source), output=output, resume=True))
    assert [prompt[:11] for prompt in prompts] == ["17 May 2024"] * 2
    generate(asked(dated, input=str(source), output=tmp_path / "new.jsonl"))
    assert prompts[-1][:11] == "18 May 2024"


class _Day:
    """Stands in for `datetime.date`, on a fixed day."""

    def __init__(self, year: int, month: int, day: int) -> None:
        self._today = date(year, month, day)

    def today(self) -> date:
        return self._today

    def fromisoformat(self, text: str) -> date:
        return date.fromisoformat(text)


def test_a_seed_repeats_its_samples(model: Path, tmp_path: Path) -> None:
    source = prompts_file(tmp_path / "prompts.jsonl", ["Why?"] * 4)
    texts = []
    for number, seed in enumerate((0, 0, 1)):
        output = tmp_path / f"{number}.jsonl"
        generate(asked(model, input=str(source), output=output, do_sample=True, temperature=2.0, seed=seed))
        texts.append([line["text"] for line in lines(output)])
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) == 4  # each prompt has draws of its own


def test_what_cannot_be_asked_is_rejected_with_its_line(model: Path, tmp_path: Path) -> None:
    long = "bones " * 100
    source = prompts_file(tmp_path / "prompts.jsonl", ["Why?", long, "a <|endoftext|> in it", "Who?"])
    result = generate(asked(model, input=str(source), output=tmp_path / "out.jsonl"))
    assert (result["prompts"], result["rejected"]) == (2, 2)
    rejects = lines(tmp_path / "out.jsonl.rejects.jsonl")
    assert [reject["line"] for reject in rejects] == [2, 3]
    assert "128" in rejects[0]["reason"]
    assert "special token" in rejects[1]["reason"]
    with pytest.raises(RecordError, match="line 2"):
        generate(asked(model, input=str(source)), stdout=io.StringIO())


def test_ids_are_kept_and_unread_fields_of_prompts_are_reported(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": 7, "prompt": "Why?", "topic": "x"}, {"id": "b", "prompt": "Dear {{name}}, who?"}, {"prompt": "Who?"}]
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = generate_verb.run(asked(model, input=str(source), output=tmp_path / "out.jsonl", quiet=False))
    assert [line["id"] for line in lines(tmp_path / "out.jsonl")] == [7, "b", "prompts.jsonl:3"]
    assert result["unread_fields"] == {"topic": 1}
    assert result["unfilled_placeholders"] == [{"text": "{{name}}", "records": 1, "line": 2}]
    told = " ".join(capsys.readouterr().err.split())
    assert "topic (1)" in told
    assert "1 record has the placeholder {{name}}, first on line 2" in told


def test_a_prompt_with_a_placeholder_is_warned_of(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for prompt, warned in (("Dear {{ name }}, why?", True), ("{% raw %} {{ 1 + 1 }} {name}", False)):
        generate(asked(model, prompt=prompt, quiet=False), stdout=io.StringIO())
        assert ("may not have been filled" in " ".join(capsys.readouterr().err.split())) == warned


def test_no_input_file_is_written_to(model: Path, tmp_path: Path) -> None:
    source = prompts_file(tmp_path / "prompts.jsonl")
    before = source.read_bytes()
    for changes in ({"rejects": source}, {"output": source, "resume": True}):
        with pytest.raises(SettingsError, match="are the same file"):
            generate(asked(model, input=str(source), **changes), stdout=io.StringIO())
    with pytest.raises(SettingsError, match="are for the answers to a file"):
        generate(asked(model, prompt="Why?", rejects=source), stdout=io.StringIO())
    assert source.read_bytes() == before


# --- A conversation ---------------------------------------------------------------------------------------------------


def talk(settings: GenerateSettings, *said: str) -> list[str]:
    """The answers in a conversation whose lines come from a pipe."""
    spoken: list[str] = []
    answer = ChatModel.answer

    def listen(self: ChatModel, *args: Any, **options: Any) -> Any:
        found = answer(self, *args, **options)
        spoken.extend(one.text for one in found)
        return found

    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChatModel, "answer", listen)
        result = generate(settings, stdin=io.BytesIO("\n".join(said).encode()), stdout=out)
    assert out.getvalue() == "".join(f"{text}\n" for text in spoken)
    assert result["questions"] == len(spoken)
    return spoken


def test_a_conversation_keeps_what_was_said(model: Path) -> None:
    first, second, third = talk(asked(model), *QUESTIONS[:3])
    turns = [user(QUESTIONS[0])]
    assert first == expected(model, *turns)
    turns += [Turn("assistant", first), user(QUESTIONS[1])]
    assert second == expected(model, *turns)
    turns += [Turn("assistant", second), user(QUESTIONS[2])]
    assert third == expected(model, *turns)


def test_a_conversation_can_begin_again(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = talk(asked(model), "Why?", "/reset", "Why?", "/system Be brief.", "Why?", "/sytem", "/exit", "Why?")
    plain, brief = expected(model, user("Why?")), expected(model, Turn("system", "Be brief."), user("Why?"))
    assert said == [plain, plain, brief]
    assert "there is no command /sytem" in capsys.readouterr().err


def test_both_models_keep_their_own_answers(finished: Path, model: Path) -> None:
    lines_in = io.BytesIO(b"Why?\nWho?\n")
    histories = []
    prompt = ChatModel.prompt

    def listen(self: ChatModel, turns: list[Turn], *args: Any) -> str:
        histories.append([turn.content for turn in turns])
        return prompt(self, turns, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChatModel, "prompt", listen)
        generate(asked(finished, against=str(model)), stdin=lines_in, stdout=io.StringIO())
    assert histories[2:] == [["Why?", expected(name, user("Why?")), "Who?"] for name in (finished, model)]


def test_a_line_that_is_no_text_ends_a_piped_conversation(model: Path) -> None:
    with pytest.raises(RecordError, match="not UTF-8"):
        generate(asked(model), stdin=io.BytesIO(b"Why?\n\xff\xfe\n"), stdout=io.StringIO())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Terminal]:
    """A function that runs a conversation on a terminal of 80 columns, in which a user types the given lines.

    A given exception is raised in place of a line; after the last one, the user types ctrl-D.
    """
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdin", Terminal())

    def types(settings: GenerateSettings, *said: str | BaseException) -> Terminal:
        left = [*said, EOFError()]

        def input_line(prompt: str) -> str:
            line = left.pop(0)
            out.write(prompt)
            if isinstance(line, BaseException):
                raise line
            out.write(f"{line}\n")
            return line

        out = Terminal()
        monkeypatch.setattr("builtins.input", input_line)
        generate(settings, stdout=out)
        assert left == []
        return out

    return types


def test_ctrl_c_ends_an_answer_and_not_the_conversation(
    model: Path, terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    micro_batches, histories = [0], []
    prompt = ChatModel.prompt

    def listen(self: ChatModel, turns: list[Turn], *args: Any) -> str:
        histories.append([turn.content for turn in turns])
        return prompt(self, turns, *args)

    def load_interrupted(*args: Any, **options: Any) -> Any:
        base = load(*args, **options)

        def interrupt(*_: Any) -> None:
            micro_batches[0] += 1
            if micro_batches[0] == 6:
                raise KeyboardInterrupt

        base.model.register_forward_hook(interrupt)
        return base

    monkeypatch.setattr(ChatModel, "prompt", listen)
    monkeypatch.setattr(speaker_module, "load", load_interrupted)
    out = terminal(asked(model), KeyboardInterrupt(), "Why?", "Who?").getvalue()
    whole = expected(model, user("Why?"))
    question, partial, second = histories[1]
    assert (question, second) == ("Why?", "Who?")
    assert whole.startswith(partial)
    assert 0 < len(partial) < len(whole)
    assert "stopped" in out
    assert "ctrl-D ends the conversation" in out


def test_a_terminal_of_80_columns_is_not_overrun(
    model: Path, finished: Path, terminal: Callable[..., Terminal]
) -> None:
    for settings in (asked(model, max_new_tokens=60), asked(finished, against=str(model), max_new_tokens=60)):
        out = terminal(settings, *QUESTIONS[:2], "/system x", "a <|endoftext|> in it").getvalue()
        plain = without_colour(out)
        assert max(cell_len(line) for line in plain.splitlines()) <= 80
        assert "tokens" in plain
        assert "--max-new-tokens 60" in plain
        assert "special token" in plain


def without_colour(text: str) -> str:
    """Text without the codes that colour it."""
    from rich.text import Text

    return Text.from_ansi(text).plain


# --- The screen -------------------------------------------------------------------------------------------------------


def typed(text: str, cuts: Iterable[int], width: int) -> str:
    out = io.StringIO()
    page = Typewriter(out, width, indent="  ")
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    for start, end in itertools.pairwise(places):
        page.write(text[start:end])
    page.end()
    return out.getvalue()


TEXTS = st.text("ab .,\n日本語。「」🙂é", max_size=60) | st.text(max_size=40)


@given(TEXTS, st.lists(st.integers(0, 100)), st.integers(8, 40))
def test_lines_are_broken_within_the_width(text: str, cuts: list[int], width: int) -> None:
    whole = typed(text, cuts, width)
    assert whole == typed(text, [], width)  # wherever it is cut
    assert all(cell_len(line) <= width for line in whole.split("\n"))
    kept = [character for character in whole if not character.isspace()]
    assert kept == [character for character in printable(text) if not character.isspace()]


def test_words_are_kept_whole() -> None:
    assert typed("The licensee shall not", [], 12) == "  The\n  licensee\n  shall not\n"
    assert typed("one\n\n  two", [], 12) == "  one\n\n    two\n"


def test_japanese_is_broken_between_characters_and_not_before_a_full_stop() -> None:
    assert typed("日本語の文。", [], 12) == "  日本語の\n  文。\n"
    assert typed("日本「語」。", [], 10) == "  日本\n  「語」。\n"


def test_a_model_cannot_control_the_terminal() -> None:
    assert typed("a\x1b[2Jb\x07\rc", [], 40) == "  a\\x1b[2Jb\\x07\\x0dc\n"
    assert typed("a\r\nb", [2], 40) == "  a\n  b\n"


# --- What is refused --------------------------------------------------------------------------------------------------


def test_options_that_do_not_fit_are_refused(model: Path, tmp_path: Path) -> None:
    source = prompts_file(tmp_path / "prompts.jsonl")
    output = tmp_path / "out.jsonl"
    generate(asked(model, input=str(source), output=output))
    for changes, said in (
        ({"input": str(source), "output": output}, "exists already"),
        ({"input": "nowhere.jsonl"}, "no such file"),
        ({"input": str(source), "json": True}, "cannot both go to standard output"),
        ({"input": str(source), "resume": True}, "nothing to resume"),
        ({"prompt": "Why?", "output": tmp_path / "new.jsonl"}, "are for the answers to a file"),
        ({"json": True}, "a conversation has no result"),
        ({"raw": True}, "needs a chat template"),
        ({"prompt": "Why?", "raw": True, "system": "Be brief."}, "--raw with --system"),
        ({"prompt": "Why?", "temperature": 0.5, "top_k": 3}, "--temperature 0.5 and --top-k 3 without --do-sample"),
        ({"prompt": "Why?", "do_sample": True, "num_beams": 2}, "--do-sample and --num-beams"),
    ):
        with pytest.raises(SettingsError, match=said):
            generate(asked(model, **changes), stdout=io.StringIO())
    with pytest.raises(SettingsError, match="only one"):
        asked(model, prompt="Why?", input=str(source))
    with pytest.raises(SettingsError, match="but --input has something else there"):
        other = prompts_file(tmp_path / "others.jsonl")
        generate(asked(model, input=str(other), output=output, resume=True))
    with pytest.raises(CorpusError, match=r"more than the limit of .*, 128"):
        generate(asked(model, prompt="bones " * 100), stdout=io.StringIO())


def test_encoders_are_refused_by_name(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path / "my-bert")
    with pytest.raises(ModelError, match=r"my-bert' is an encoder"):
        generate(asked(folder, prompt="Why?"), stdout=io.StringIO())


def test_encoder_decoders_are_refused_by_name(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "my-t5"))
    AutoConfig.for_model("t5").save_pretrained(folder)
    with pytest.raises(ModelError, match=r"my-t5' is a model of type 't5'"):
        generate(asked(folder, prompt="Why?"), stdout=io.StringIO())


def test_a_system_turn_that_the_template_rejects_is_refused(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    with pytest.raises(RecordError, match="rejects the system turn"):
        generate(asked(folder, prompt="Why?", system="Be brief."), stdout=io.StringIO())
