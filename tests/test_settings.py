"""Settings: one source for command line, TOML and Python; all errors at once; config.toml repeats a run."""

from __future__ import annotations

import dataclasses
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft import checking
from domain_ft.checking import Given
from domain_ft.cli import VERBS
from domain_ft.errors import SettingsError
from domain_ft.verbs.adapt.settings import AdaptSettings
from domain_ft.verbs.bench.settings import BenchSettings
from domain_ft.verbs.classify.settings import ClassifySettings
from domain_ft.verbs.evaluate.settings import EvaluateSettings
from domain_ft.verbs.export.settings import ExportSettings

ALL = [verb.settings for verb in VERBS]


def problems(error: pytest.ExceptionInfo[SettingsError]) -> list[str]:
    """The lines of an error, without the heading that counts them."""
    lines = str(error.value).splitlines()
    return lines[1:] if len(lines) > 1 else lines


def test_defaults_are_as_documented() -> None:
    chosen = AdaptSettings(corpus="legal")
    assert chosen.model == "minilm"
    assert (chosen.method, chosen.rank, chosen.alpha, chosen.targets) == ("lora", 16, None, "all-linear")
    assert (chosen.max_tokens, chosen.max_steps, chosen.epochs) == (None, None, None)
    assert (chosen.device, chosen.dtype, chosen.kernels, chosen.seed) == ("auto", "auto", "auto", 0)


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        AdaptSettings(corpus="legal").rank = 8  # type: ignore[misc]


@pytest.mark.parametrize("cls", ALL)
def test_every_setting_has_a_help_text_and_a_group(cls: type[checking.Settings]) -> None:
    for option in checking.options(cls):
        assert option.help.endswith("."), option
        assert option.group, option
        assert option.group != "Options", option


@pytest.mark.parametrize("cls", ALL)
def test_every_field_is_an_option_once(cls: type[checking.Settings]) -> None:
    assert sorted(option.name for option in checking.options(cls)) == sorted(f.name for f in dataclasses.fields(cls))


@pytest.mark.parametrize("cls", ALL)
def test_defaults_keep_their_own_limits(cls: type[checking.Settings]) -> None:
    for option in checking.options(cls):
        if not option.required:
            _, found = checking.validate(cls, {option.name: Given(option.default, option.name)}, missing=lambda _: None)
            assert found == []


def test_in_python_all_errors_come_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        AdaptSettings(
            rank=0,
            method="lorra",  # type: ignore[arg-type]
            mask_rate=1.0,
            learning_rate="fast",  # type: ignore[arg-type]
            seed=True,
            targets="(",
            max_tokens=3,
            epochs=2,
        )
    found = problems(error)
    assert len(found) == 8
    for part in (
        "corpus is required",
        "AdaptSettings(rank=0): must be at least 1",
        "AdaptSettings(method='lorra'): must be one of lora, dora, full; did you mean lora?",
        "AdaptSettings(mask_rate=1.0): must be above 0 and below 1",
        "AdaptSettings(learning_rate='fast'): must be a number",
        "AdaptSettings(seed=True): must be a whole number",
        "AdaptSettings(targets='('): must be all-linear, attention or a regular expression",
        "AdaptSettings(max_tokens=3) and AdaptSettings(epochs=2): only one of these can be given",
    ):
        assert any(part in line for line in found), (part, found)


def test_one_error_is_one_line() -> None:
    with pytest.raises(SettingsError) as error:
        AdaptSettings(corpus="legal", rank=0)
    assert str(error.value) == "AdaptSettings(rank=0): must be at least 1"


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 10**400, -0.1, "0.1", None, True, [0.1]], ids=lambda value: repr(value)[:9]
)
def test_invalid_numbers_are_refused(value: object) -> None:
    with pytest.raises(SettingsError, match="warmup"):
        AdaptSettings(corpus="legal", warmup=value)  # type: ignore[arg-type]


def test_equivalent_values_of_other_types_are_accepted() -> None:
    chosen = AdaptSettings(
        corpus=Path("texts") / "a.jsonl",  # type: ignore[arg-type]
        rank=np.int64(8),  # type: ignore[arg-type]
        max_tokens=2e5,  # type: ignore[arg-type]
        warmup=0,
        output="runs/x",  # type: ignore[arg-type]
        track="wandb",  # type: ignore[arg-type]
        train_modules=["cls"],  # type: ignore[arg-type]
    )
    assert chosen.corpus == "texts/a.jsonl"
    assert (chosen.rank, type(chosen.rank)) == (8, int)
    assert (chosen.max_tokens, type(chosen.max_tokens)) == (200_000, int)
    assert type(chosen.warmup) is float
    assert chosen.output == Path("runs/x")
    assert chosen.track == ("wandb",)
    assert chosen.train_modules == ("cls",)


@pytest.mark.parametrize(
    ("text", "number"), [("250000", 250_000), ("250_000", 250_000), ("2e5", 200_000), ("1.5e1", 15), (" 7 ", 7)]
)
def test_whole_numbers_are_read_as_people_type_them(text: str, number: int) -> None:
    values, found = checking.validate(
        AdaptSettings, {"max_tokens": Given(text, "here", text=True)}, missing=lambda _: None
    )
    assert found == []
    assert values["max_tokens"] == number
    assert type(values["max_tokens"]) is int


@pytest.mark.parametrize("text", ["1.5", "x", "", "1e400", "nan", "0x10", "1,000"])
def test_text_that_is_not_a_whole_number_is_refused(text: str) -> None:
    _, found = checking.validate(AdaptSettings, {"rank": Given(text, "here", text=True)}, missing=lambda _: None)
    assert found == ["here: must be a whole number"]


def test_replace_checks_again() -> None:
    chosen = AdaptSettings(corpus="legal")
    assert dataclasses.replace(chosen, output=Path("x")).output == Path("x")
    with pytest.raises(SettingsError):
        dataclasses.replace(chosen, rank=-1)


def test_evaluate_requires_one_or_more_models() -> None:
    assert EvaluateSettings(corpus="legal", model="minilm").model == ("minilm",)  # type: ignore[arg-type]
    assert EvaluateSettings(corpus="legal", model=("a", "b")).model == ("a", "b")
    with pytest.raises(SettingsError, match="must have at least one"):
        EvaluateSettings(corpus="legal", model=())


# --- TOML -------------------------------------------------------------------------------------------------------------


def test_config_toml_repeats_the_run(tmp_path: Path) -> None:
    chosen = AdaptSettings(
        corpus='odd "name"\\ü.jsonl', output=Path("runs/x"), alpha=3, epochs=0.5, track=("a", "b"), whole_word=False
    )
    path = tmp_path / "config.toml"
    path.write_text(chosen.to_toml({"version": "0.1.0", "torch": "2.13.0"}), encoding="utf-8")
    assert AdaptSettings.from_toml(path) == chosen
    assert AdaptSettings.from_toml(path, rank=4) == dataclasses.replace(chosen, rank=4)


def test_config_toml_leaves_out_options_of_the_call(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(AdaptSettings(corpus="legal", resume=True, dry_run=True, json=True, quiet=True).to_toml())
    assert AdaptSettings.from_toml(path) == AdaptSettings(corpus="legal")


def test_a_length_given_as_an_option_replaces_the_one_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(AdaptSettings(corpus="legal", max_tokens=250_000).to_toml())
    again = AdaptSettings.from_toml(path, max_steps=3)
    assert (again.max_tokens, again.max_steps) == (None, 3)


def test_all_errors_of_a_toml_file_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('rnak = 8\nrank = "8"\nmax-steps = 0\nmethod = "DORA"\nquiet = 1\n[lora]\nrank = 3\n')
    with pytest.raises(SettingsError) as error:
        AdaptSettings.from_toml(path, raank=3)
    found = problems(error)
    for part in (
        f"{path}, rnak: there is no such setting; did you mean rank?",
        f"{path}, [lora]: there is no such setting",
        f'{path}, rank = "8": must be a whole number',
        f"{path}, max-steps = 0: must be at least 1",
        f'{path}, method = "DORA": must be one of lora, dora, full',
        f"{path}, quiet = 1: must be true or false",
        f"{path}: no corpus",
        "from_toml(raank=...): there is no such setting; did you mean rank?",
    ):
        assert any(part in line for line in found), (part, found)
    assert len(found) == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"rank = ", "is not valid TOML"), (b"\xff\xfe", "is not valid TOML"), (None, "No such file")],
)
def test_a_toml_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "job.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        AdaptSettings.from_toml(path)


def test_to_dict_is_plain() -> None:
    chosen = ExportSettings(model="runs/x", output=Path("merged"))
    assert chosen.to_dict() == {"model": "runs/x", "output": "merged", "json": False, "quiet": False}


# --- Arbitrary values -------------------------------------------------------------------------------------------------

anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text()), st.binary(), st.just(object())
)


@given(values=st.dictionaries(st.sampled_from([o.name for o in checking.options(AdaptSettings)]), anything, max_size=6))
def test_any_values_give_settings_or_a_settings_error(values: dict[str, object]) -> None:
    try:
        chosen = AdaptSettings(**values)  # type: ignore[arg-type]
    except SettingsError:
        return
    assert AdaptSettings(**vars(chosen)) == chosen


@given(text=st.text(alphabet=string.printable), name=st.sampled_from([o.name for o in checking.options(BenchSettings)]))
def test_any_assignment_is_read_or_named(text: str, name: str) -> None:
    given_, found = checking.read_assignments(BenchSettings, [text, f"{name}={text}"])
    assert len(given_) + len(found) >= 1


def test_a_former_name_works_with_a_warning(tmp_path: Path) -> None:
    old = "tokens_per_pass"
    with pytest.warns(FutureWarning, match="is now tokens_per_micro_batch="):
        settings = AdaptSettings(corpus="c", **{old: 64})
    assert settings.tokens_per_micro_batch == 64
    file = tmp_path / "config.toml"
    file.write_text(f'corpus = "c"\n{old} = 32\n', encoding="utf-8")
    assert AdaptSettings.from_toml(file).tokens_per_micro_batch == 32
    given, problems = checking.read_assignments(AdaptSettings, [f"{old}=16"])
    assert (given["tokens_per_micro_batch"].value, problems) == ("16", [])
    assert old not in settings.to_toml()


def test_a_step_of_a_task_is_counted_in_examples_unless_tokens_are_given() -> None:
    from domain_ft.verbs.shared.trials import BATCH_SIZE, batch_size

    assert batch_size(ClassifySettings(train="t.jsonl")) == BATCH_SIZE
    assert batch_size(ClassifySettings(train="t.jsonl", tokens_per_step=4096)) is None
    assert batch_size(ClassifySettings(train="t.jsonl", tokens_per_step=64, batch_size=3)) == 3
