"""Generation: transformers' answers in any batch, draws that a seed repeats, and streams of whole characters."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import DECODERS, MAX_LENGTH, save_talkative, save_tiny, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from domain_ft.errors import CorpusError, ModelError, SettingsError
from domain_ft.models.attention import NAME
from domain_ft.models.base import BaseModel, load
from domain_ft.models.generation import Generated, Sampling, TextStream, generate
from domain_ft.models.lora import LoraConfig, apply_lora, merge_and_unload

PROMPTS = (
    "The licensee shall",
    "An abnormality of the skeletal system, with short stature and delayed growth of the bones",
    "ライセンス",
    "Nothing",
    "🙂 The quick brown fox jumps over the lazy dog",
    "0123456789 (section 4.2)!",
    "<|endoftext|>The work",
)
NEW = 12
CUT = "\N{REPLACEMENT CHARACTER}"  # a part of a character is decoded as this


_FOLDERS = tempfile.TemporaryDirectory()


@functools.cache
def folder(architecture: str) -> Path:
    return save_talkative(architecture, Path(_FOLDERS.name) / architecture)


def loaded(architecture: str, pad: str | None = None) -> BaseModel:
    """A tiny model as the program loads it; except in opt, `pad` is its padding token (None for none)."""
    base = load(str(folder(architecture)))
    if architecture != "opt":
        base.tokenizer.pad_token = pad
    return base


def alone(architecture: str, prompt: str, stop_tokens: Sequence[int]) -> Generated:
    """What transformers' own model, with its own attention, writes greedily after one prompt."""
    base = loaded(architecture)
    model = AutoModelForCausalLM.from_pretrained(folder(architecture))
    assert model.config._attn_implementation != NAME
    ids = base.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    ends = sorted({*stop_tokens, model.generation_config.eos_token_id})
    written = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, eos_token_id=ends, pad_token_id=0
    )[0, ids.shape[1] :].tolist()
    stopped = written[-1] in ends
    text = base.tokenizer.decode(written[:-1] if stopped else written, skip_special_tokens=True)
    text = text if stopped else text.rstrip(CUT)
    return Generated(text, len(written), stopped, 0.0)


def said(answers: Sequence[Generated]) -> list[tuple[str, int, bool]]:
    return [(answer.text, answer.tokens, answer.stopped) for answer in answers]


@functools.cache
def common_token(architecture: str) -> int:
    """A token that a tiny model writes after some prompts but not after all, and never as the first token."""
    base = loaded(architecture)
    written = []
    for prompt in PROMPTS:
        ids = base.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        out = base.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, pad_token_id=0
        )
        written.append(out[0, ids.shape[1] :].tolist())
    for token in sorted({token for row in written for token in row[1:]}):
        holds = [token in row for row in written]
        if any(holds) and not all(holds) and all(row[0] != token for row in written):
            return token
    raise AssertionError(written)


# --- Greedy -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", [None, "<|endoftext|>"], ids=["no-pad", "pad-is-eos"])
@pytest.mark.parametrize("architecture", [*DECODERS, "mistral"])
def test_an_answer_is_transformers_own_whatever_shares_its_batch(architecture: str, pad: str | None) -> None:
    base = loaded(architecture, pad)
    stop = (common_token(architecture),)
    expected = said([alone(architecture, prompt, stop) for prompt in PROMPTS])
    assert {stopped for _, _, stopped in expected} == {True, False}
    for batch_size in (1, 3, len(PROMPTS)):
        answers = generate(base, PROMPTS, Sampling(NEW), stop_tokens=stop, batch_size=batch_size)
        assert said(answers) == expected


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(NEW, repetition_penalty=1.5),
        Sampling(NEW, no_repeat_ngram_size=1),
        Sampling(NEW, no_repeat_ngram_size=2),
        Sampling(NEW, num_beams=3),
        Sampling(NEW, do_sample=True, temperature=1.5, seed=3),
        Sampling(NEW, do_sample=True, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.2),
    ],
    ids=["penalty", "unigrams", "bigrams", "beams", "draws", "filtered-draws"],
)
def test_no_sampling_setting_makes_an_answer_depend_on_its_batch(architecture: str, sampling: Sampling) -> None:
    base = loaded(architecture, "<|endoftext|>")
    together = generate(base, PROMPTS, sampling, stop_tokens=(), batch_size=len(PROMPTS))
    single = [
        generate(base, [prompt], sampling, stop_tokens=(), names=[str(number)])[0]
        for number, prompt in enumerate(PROMPTS, 1)
    ]
    assert said(together) == said(single)


def test_the_repetition_penalty_ignores_padding() -> None:
    """The padding token is the one that the model writes first, so a penalty for padding would show."""
    sampling = Sampling(NEW, repetition_penalty=50.0)
    base = loaded("llama")
    short, long = "A", "The court of appeal held that the licence was void."
    ids = base.tokenizer(short, add_special_tokens=False, return_tensors="pt")["input_ids"]
    first = int(base.model(ids).logits[0, -1].argmax())
    assert first not in ids
    base.tokenizer.pad_token = base.tokenizer.convert_ids_to_tokens(first)
    together = generate(base, [short, long], sampling, stop_tokens=())
    assert said(together) == said([generate(base, [prompt], sampling, stop_tokens=())[0] for prompt in (short, long)])


def test_the_token_that_ends_a_turn_is_counted_but_not_in_the_text() -> None:
    base = loaded("llama")
    stop = common_token("llama")
    answers = generate(base, PROMPTS, Sampling(NEW), stop_tokens=(stop,))
    assert any(answer.stopped for answer in answers)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert answer.seconds > 0
        if answer.stopped and answer.tokens > 1:
            (before,) = generate(base, [prompt], Sampling(answer.tokens - 1), stop_tokens=(stop,))
            assert said([before]) == [(answer.text.rstrip(CUT), answer.tokens - 1, False)]


def test_the_models_own_generation_settings_are_ignored() -> None:
    base = loaded("llama")
    before = said(generate(base, PROMPTS, Sampling(NEW), stop_tokens=()))
    base.model.generation_config.update(do_sample=True, temperature=3.0, repetition_penalty=9.0, max_length=3)
    assert said(generate(base, PROMPTS, Sampling(NEW), stop_tokens=())) == before


def test_an_answer_stops_at_the_end_tokens_of_the_models_generation_config() -> None:
    base = loaded("llama")
    stop = common_token("llama")
    expected = said(generate(base, PROMPTS, Sampling(NEW), stop_tokens=(stop,)))
    base.model.generation_config.eos_token_id = [0, stop]
    assert said(generate(base, PROMPTS, Sampling(NEW), stop_tokens=())) == expected


def test_the_training_mode_is_left_as_it_was() -> None:
    base = loaded("gpt2")
    expected = said(generate(base, PROMPTS[:2], Sampling(NEW), stop_tokens=()))
    base.model.train()
    assert said(generate(base, PROMPTS[:2], Sampling(NEW), stop_tokens=())) == expected  # without dropout
    assert base.model.training


def test_an_adapted_model_in_training_mode_answers_as_its_merged_model() -> None:
    base = loaded("llama")
    before = said(generate(base, PROMPTS, Sampling(NEW), stop_tokens=()))
    lora = apply_lora(base.model, LoraConfig(rank=4, dropout=0.5))
    with torch.no_grad():
        for layer in lora.layers.values():
            torch.nn.init.normal_(layer.lora_B, generator=torch.Generator().manual_seed(1))
    base.model.train()
    answers = said(generate(base, PROMPTS, Sampling(NEW), stop_tokens=()))
    merge_and_unload(base.model)
    assert said(generate(base, PROMPTS, Sampling(NEW), stop_tokens=())) == answers != before


def test_progress_counts_answers() -> None:
    seen: list[tuple[str, int, int | None]] = []
    generate(
        loaded("llama"), PROMPTS[:3], Sampling(2), stop_tokens=(), batch_size=2, progress=lambda *s: seen.append(s)
    )
    assert seen == [("generating", 2, 3), ("generating", 3, 3)]
    assert generate(loaded("llama"), [], Sampling(2), stop_tokens=()) == []


# --- Draws ------------------------------------------------------------------------------------------------------------


def draw(base: BaseModel, seed: int, names: Sequence[str] | None = None) -> list[str]:
    sampling = Sampling(NEW, do_sample=True, temperature=2.0, seed=seed)
    return [answer.text for answer in generate(base, PROMPTS, sampling, stop_tokens=(), names=names)]


def test_a_seed_repeats_its_draws() -> None:
    base = loaded("llama")
    torch.manual_seed(1)
    first = draw(base, seed=1)
    torch.manual_seed(2)
    assert draw(base, seed=1) == first
    assert all(one != other for one, other in zip(first, draw(base, seed=2), strict=True))
    names = [f"other {place}" for place in range(len(PROMPTS))]
    assert all(one != other for one, other in zip(first, draw(base, seed=1, names=names), strict=True))


def test_tokens_are_drawn_by_their_probability() -> None:
    """3,000 draws among the three likeliest tokens at temperature 0.7: each count is within 5 standard deviations."""
    base, count = loaded("llama"), 3000
    sampling = Sampling(1, do_sample=True, temperature=0.7, top_k=3)
    ids = base.tokenizer(PROMPTS[0], add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        best = (base.model(input_ids=ids).logits[0, -1] / 0.7).topk(3)
    expected = {
        base.tokenizer.decode([token]).rstrip(CUT): chance
        for token, chance in zip(best.indices.tolist(), best.values.softmax(-1).tolist(), strict=True)
    }
    assert len(expected) == 3
    drawn = [a.text for a in generate(base, [PROMPTS[0]] * count, sampling, stop_tokens=(), batch_size=500)]
    assert set(drawn) == set(expected)
    for text, chance in expected.items():
        assert abs(drawn.count(text) / count - chance) < 5 * (chance * (1 - chance) / count) ** 0.5


@pytest.mark.parametrize("choice", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}])
def test_sampling_that_leaves_one_token_is_greedy(choice: dict[str, float]) -> None:
    base = loaded("gpt2")
    greedy = said(generate(base, PROMPTS, Sampling(NEW), stop_tokens=()))
    assert said(generate(base, PROMPTS, Sampling(NEW, do_sample=True, **choice), stop_tokens=())) == greedy


def test_sampling_with_beams_is_refused() -> None:
    with pytest.raises(SettingsError, match="--do-sample and --num-beams 2"):
        Sampling(NEW, do_sample=True, num_beams=2)


# --- Streaming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampling",
    [Sampling(40), Sampling(40, do_sample=True, temperature=2.0), Sampling(40, num_beams=2)],
    ids=["greedy", "draws", "beams"],
)
def test_what_is_streamed_is_what_is_returned(sampling: Sampling) -> None:
    base = loaded("llama")
    for number, prompt in enumerate(PROMPTS):
        parts: list[str] = []
        stop = (common_token("llama"),) if number % 2 else ()
        (streamed,) = generate(base, [prompt], sampling, stop_tokens=stop, stream=parts.append)
        (whole,) = generate(base, [prompt], sampling, stop_tokens=stop)
        assert "".join(parts) == streamed.text == whole.text
        assert all(parts)
        if sampling.num_beams == 1 and streamed.tokens > 20:
            assert len(parts) > 3


def test_one_answer_is_streamed_at_a_time() -> None:
    with pytest.raises(ValueError, match="one answer can be streamed at a time, not 2"):
        generate(loaded("llama"), PROMPTS[:2], Sampling(NEW), stop_tokens=(), stream=print)


@functools.cache
def byte_level() -> PreTrainedTokenizerFast:
    return tiny_tokenizer("gpt2")


@functools.cache
def byte_fallback() -> PreTrainedTokenizerFast:
    """Like Llama 2's tokenizer: a token for each of a few characters, and byte tokens for all others."""
    parts = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefgh.,", "日", "本"]
    backend = Tokenizer(
        models.BPE(vocab={part: i for i, part in enumerate(parts)}, merges=[], byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


TOKENIZERS = st.sampled_from([byte_level, byte_fallback])


def parts_of(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int]) -> list[str]:
    text = TextStream(tokenizer)
    return [*(text.add(token) for token in tokens), text.end(cut=False)]


@settings(max_examples=150)
@given(TOKENIZERS, st.text(max_size=30) | st.text("日本語の文🙂👩‍🔬🇯🇵é .,a", max_size=30))
def test_no_character_is_streamed_before_its_last_token(make: functools._lru_cache_wrapper, text: str) -> None:
    tokenizer = make()
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    parts = parts_of(tokenizer, tokens)
    assert "".join(parts) == tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert CUT in text or all(CUT not in part for part in parts)


@settings(max_examples=150)
@given(TOKENIZERS, st.lists(st.integers(0, 260), max_size=25))
def test_tokens_that_are_no_text_are_streamed_as_they_are_decoded(
    make: functools._lru_cache_wrapper, tokens: list[int]
) -> None:
    tokenizer = make()
    decoded = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "".join(parts_of(tokenizer, tokens)) == decoded


def test_japanese_and_emoji_come_character_by_character() -> None:
    text = "日本語🙂です"
    parts = parts_of(byte_level(), byte_level()(text, add_special_tokens=False)["input_ids"])
    assert [part for part in parts if part] == list(text)


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_a_character_that_is_cut_off_at_the_end_is_left_out(make: Callable[[], PreTrainedTokenizerFast]) -> None:
    text = TextStream(make())
    tokens = make()("日🙂", add_special_tokens=False)["input_ids"]
    given = [*(text.add(token) for token in tokens[:-1]), text.end(cut=True)]
    assert "".join(given) == "日"


# --- What is refused --------------------------------------------------------------------------------------------------


def test_an_encoder_is_refused_by_name(tmp_path: Path) -> None:
    base = load(str(save_tiny("bert", tmp_path / "bert")))
    with pytest.raises(ModelError, match=r"bert' is an encoder"):
        generate(base, ["The"], Sampling(NEW), stop_tokens=())


def test_a_prompt_that_leaves_too_little_room_is_refused_by_name() -> None:
    base = loaded("gpt2")
    unit = len(base.tokenizer(" word")["input_ids"])
    fits = " word" * ((MAX_LENGTH - NEW) // unit)
    generate(base, [fits], Sampling(MAX_LENGTH - unit * ((MAX_LENGTH - NEW) // unit)), stop_tokens=())
    with pytest.raises(CorpusError, match=rf"more than the limit of .*, {MAX_LENGTH}") as caught:
        generate(base, ["The", fits + " word" * NEW], Sampling(NEW), stop_tokens=(), names=["one", "two"])
    assert caught.value.where == "two"
    with pytest.raises(CorpusError, match="empty"):
        generate(base, [""], Sampling(NEW), stop_tokens=())
