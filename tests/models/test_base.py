"""Loading a model by folder, hub id or run; running it packed and padded; and what the loader refuses."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors as hub_errors
from safetensors.torch import load_file, save_file
from tiny_models import MAX_LENGTH, OTHER_CONFIGS, SUPPORTED, VOCABULARY, save_tiny, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers.utils import logging as transformers_logging

from domain_ft.errors import ModelError
from domain_ft.models import base as base_module
from domain_ft.models.attention import NAME
from domain_ft.models.base import Tokens, load
from domain_ft.models.lora import LoraConfig, apply_lora
from domain_ft.models.peft_format import save_adapter
from domain_ft.models.sources import weights_hash

LENGTHS = (5, 5, 40, 17, 1, 17)
GENERATOR = torch.Generator().manual_seed(0)
PIECES = [torch.randint(6, VOCABULARY, (length,), generator=GENERATOR) for length in LENGTHS]
BATCH = Tokens.of([sequence.tolist() for sequence in PIECES])


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from an architecture to its tiny model's folder, which the tests share and must not change."""
    root = tmp_path_factory.mktemp("models")

    def folder(architecture: str) -> Path:
        path = root / architecture
        return path if path.exists() else save_tiny(architecture, path)

    return folder


@pytest.fixture
def broken(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the tiny BERT, to be damaged."""
    return Path(shutil.copytree(tiny_folder("bert"), tmp_path / "broken"))


def separate_logits(architecture: str) -> Tensor:
    model = tiny_model(architecture)
    with torch.no_grad():
        return torch.cat([model(input_ids=sequence[None]).logits[0] for sequence in PIECES])


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_every_supported_architecture_loads_and_gives_its_own_logits(
    architecture: str, tiny_folder: Callable[[str], Path]
) -> None:
    base = load(str(tiny_folder(architecture)))
    assert base.packed
    assert not base.head_is_random
    assert base.notes == ()
    assert base.max_length == MAX_LENGTH
    assert base.source == str(tiny_folder(architecture).resolve())
    assert base.revision.startswith("sha256:")
    assert not base.model.training
    with torch.no_grad():
        expected = separate_logits(architecture)
        torch.testing.assert_close(base.forward_logits(BATCH), expected, rtol=0, atol=1e-5)
        rows = torch.tensor([70, 3, 12])
        torch.testing.assert_close(base.forward_logits(BATCH, rows), expected[rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "packed"),
    [
        ("camembert", True),  # counts positions as RoBERTa does
        ("mpnet", False),  # has no attention interface
        ("deberta-v2", False),
        ("gemma2", False),  # caps its attention scores
        ("cohere", True),
        ("granite", True),
        ("mistral", True),
    ],
)
def test_other_architectures_are_packed_where_that_is_exact_and_padded_elsewhere(
    architecture: str, packed: bool, tiny_folder: Callable[[str], Path]
) -> None:
    base = load(str(tiny_folder(architecture)))
    assert base.packed == packed
    assert base.max_length == MAX_LENGTH
    assert base.padding_fraction(BATCH) == (0 if packed else pytest.approx(4 / 89))  # (5, 5, 1), (40) and (17, 17)
    with torch.no_grad():
        torch.testing.assert_close(base.forward_logits(BATCH), separate_logits(architecture), rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", OTHER_CONFIGS)
def test_rows_are_the_same_rows_packed_or_padded(architecture: str, tiny_folder: Callable[[str], Path]) -> None:
    base, rows = load(str(tiny_folder(architecture))), torch.tensor([70, 3, 12])
    with torch.no_grad():
        torch.testing.assert_close(base.hidden(BATCH, rows), base.hidden(BATCH)[rows], rtol=0, atol=1e-5)


def test_padding_does_not_change_the_gradient(tiny_folder: Callable[[str], Path]) -> None:
    gradients = []
    for packed in (True, False):
        base = load(str(tiny_folder("bert")))
        base.model.double()
        base.packed = packed
        base.forward_logits(BATCH).square().sum().backward()
        gradients.append([parameter.grad for parameter in base.model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-5)  # logits are float32


def test_a_model_whose_logits_cannot_be_reproduced_is_refused(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_module, "logit_tail", lambda _config: base_module.LogitTail(scale=2.0))
    with pytest.raises(ModelError, match="type 'mistral', which is not supported") as caught:
        load(str(tiny_folder("mistral")))
    assert "modernbert" in str(caught.value)


def test_an_untested_architecture_is_tried_in_bfloat16_too(tiny_folder: Callable[[str], Path]) -> None:
    assert load(str(tiny_folder("mistral")), dtype=torch.bfloat16).packed
    assert not load(str(tiny_folder("deberta-v2")), dtype=torch.bfloat16).packed


def test_bfloat16_weights_stay_bfloat16(tiny_folder: Callable[[str], Path]) -> None:
    base = load(str(tiny_folder("llama")), dtype=torch.bfloat16)
    assert base.model.dtype == torch.bfloat16
    assert base.hidden(BATCH).dtype == torch.bfloat16
    assert base.forward_logits(BATCH).dtype == torch.float32


def test_what_is_loaded_is_saved_as_it_was(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    base = load(str(tiny_folder("bert")))
    base.model.save_pretrained(tmp_path / "again")
    assert NAME not in (tmp_path / "again" / "config.json").read_text()
    assert weights_hash(tmp_path / "again") == base.revision


def test_loading_prints_nothing_and_leaves_the_loggers_as_they_were(
    tiny_folder: Callable[[str], Path], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    with caplog.at_level(logging.INFO):
        load(str(tiny_folder("deberta-v2")))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == (verbosity, bars)


def test_a_body_without_its_head_is_loaded_with_a_note(tmp_path: Path) -> None:
    tiny_model("bert").bert.save_pretrained(tmp_path)
    tiny_tokenizer("wordpiece").save_pretrained(tmp_path)
    base = load(str(tmp_path))
    assert base.head_is_random
    assert "cls.predictions.transform.dense.weight" in base.notes[0]


def test_a_sharded_model_has_one_revision(tmp_path: Path) -> None:
    model = tiny_model("bert")
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    tiny_tokenizer("wordpiece").save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    first = load(str(tmp_path)).revision
    assert first == load(str(tmp_path)).revision


# Runs -----------------------------------------------------------------------------------------------------------------


def write_run(folder: Path, base_name: str, seed: int = 1) -> Tensor:
    """Write a finished run on the model `base_name` with random updates; return the logits that the run must give."""
    base = load(base_name)
    lora = apply_lora(base.model, LoraConfig(rank=4, targets="attention"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in lora.layers.values():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator))
        logits = base.forward_logits(BATCH)
    save_adapter(base.model, folder / "adapter", base_name=base.source, revision=base.revision)
    (folder / "config.toml").write_text("")
    (folder / "result.json").write_text("{}")
    return logits


def test_a_run_is_its_base_with_the_adapter_merged(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    expected = write_run(tmp_path / "run", str(tiny_folder("bert")))
    base = load(str(tmp_path / "run"))
    with torch.no_grad():
        logits = base.forward_logits(BATCH)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    assert (logits - separate_logits("bert")).abs().max() > 0.1
    assert base.source == str((tmp_path / "run").resolve())
    assert base.notes == ()
    assert not any("lora" in name for name, _ in base.model.named_modules())


def test_a_run_on_a_run_has_both_adapters(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    write_run(tmp_path / "first", str(tiny_folder("llama")))
    expected = write_run(tmp_path / "second", str(tmp_path / "first"), seed=2)
    with torch.no_grad():
        torch.testing.assert_close(load(str(tmp_path / "second")).forward_logits(BATCH), expected, rtol=0, atol=1e-4)


def test_an_adapter_folder_is_loaded_without_its_run(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    expected = write_run(tmp_path / "run", str(tiny_folder("bert")))
    shutil.move(tmp_path / "run" / "adapter", tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(load(str(tmp_path / "adapter")).forward_logits(BATCH), expected, rtol=0, atol=1e-4)


def test_a_run_whose_base_has_changed_is_loaded_with_a_note(broken: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", str(broken))
    weights = load_file(broken / "model.safetensors")
    save_file({key: value * 1.01 for key, value in weights.items()}, broken / "model.safetensors", {"format": "pt"})
    (note,) = load(str(tmp_path / "run")).notes
    assert "was trained on sha256:" in note


def test_an_unfinished_run_is_refused(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    write_run(tmp_path / "run", str(tiny_folder("bert")))
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(ModelError, match="is not finished") as caught:
        load(str(tmp_path / "run"))
    assert "--resume" in str(caught.value)


def test_a_run_whose_base_is_gone_names_it(broken: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", str(broken))
    shutil.rmtree(broken)
    with pytest.raises(ModelError, match="the adapter's base model cannot be loaded") as caught:
        load(str(tmp_path / "run"))
    assert str(broken) in str(caught.value)


def test_an_adapter_whose_config_is_bad_is_refused(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    write_run(tmp_path / "run", str(tiny_folder("bert")))
    config = tmp_path / "run" / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": None}))
    with pytest.raises(ModelError, match="does not name the model"):
        load(str(tmp_path / "run"))
    config.write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        load(str(tmp_path / "run"))
    config.write_text("[]")
    with pytest.raises(ModelError, match="holds a list where a JSON object is expected"):
        load(str(tmp_path / "run"))
    for key in ("base_model_name_or_path", "revision"):
        config.write_text(json.dumps({"base_model_name_or_path": "minilm", key: ["a"]}))
        with pytest.raises(ModelError, match=rf'holds a list where a text is expected(.|\n)*field "{key}"'):
            load(str(tmp_path / "run"))


# Bad folders ----------------------------------------------------------------------------------------------------------


def refused(path: Path, *parts: str, **arguments: Any) -> None:
    with pytest.raises(ModelError) as caught:
        load(str(path), **arguments)
    for part in parts:
        assert part in str(caught.value)


def test_the_wrong_objective_is_refused(tiny_folder: Callable[[str], Path]) -> None:
    refused(tiny_folder("bert"), "is an encoder", "objective mlm, not clm", objective="clm")
    refused(tiny_folder("gpt2"), "is a decoder", "objective clm, not mlm", objective="mlm")
    assert load(str(tiny_folder("gpt2")), objective="clm").objective == "clm"


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "neither a model's folder")


def test_a_file_is_refused(broken: Path) -> None:
    refused(broken / "model.safetensors", "a file, not a model folder")


def test_a_path_that_is_not_there_is_refused_with_the_embedded_names(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "is not a folder", "minilm", "smollm2")


def test_damaged_weights_are_refused(broken: Path) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(broken, "damaged")


def test_a_pickle_is_never_loaded(broken: Path) -> None:
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    refused(broken, "no weights in safetensors format", "save_pretrained")


def test_missing_weights_of_the_body_are_refused(broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "layer.1" not in key}
    save_file(kept, broken / "model.safetensors", {"format": "pt"})
    refused(broken, "16 weights", "bert.encoder.layer.1")


def test_weights_of_another_size_are_refused(broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    key = "bert.embeddings.word_embeddings.weight"
    weights[key] = weights[key][:-1].contiguous()
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    refused(broken, key, "(383, 32)", "(384, 32)")


def test_a_broken_config_is_refused(broken: Path) -> None:
    (broken / "config.json").write_text("{oops")
    refused(broken, "the config.json of", "is not JSON", "line 1")


def test_an_unknown_type_is_refused(broken: Path) -> None:
    (broken / "config.json").write_text('{"model_type": "nonsense"}')
    refused(broken, "is of type 'nonsense'", "does not know")


def test_code_that_comes_with_a_model_is_never_run(broken: Path, tmp_path: Path) -> None:
    (broken / "config.json").write_text('{"model_type": "x", "auto_map": {"AutoConfig": "code.Config"}}')
    (broken / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    refused(broken, "is of type 'x'", "custom code (auto_map), which is never run")
    assert not (tmp_path / "ran").exists()


def test_a_quantised_model_is_refused(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (broken / "config.json").write_text(json.dumps(config))
    refused(broken, "quantised")


def test_a_model_without_a_tokenizer_is_refused(broken: Path) -> None:
    (broken / "tokenizer.json").unlink()
    refused(broken, "without a tokenizer")


def test_a_tokenizer_without_a_mask_token_is_refused_for_an_encoder(broken: Path) -> None:
    for file in broken.glob("tokenizer*"):
        file.unlink()
    tiny_tokenizer("gpt2").save_pretrained(broken)
    refused(broken, "no mask token")


def test_a_tokenizer_larger_than_the_embeddings_is_refused(broken: Path) -> None:
    tokenizer = tiny_tokenizer("wordpiece")
    tokenizer.add_tokens([f"word{number}" for number in range(VOCABULARY)])
    tokenizer.save_pretrained(broken)
    refused(broken, "embeddings for 384 tokens")


# The hub, without a network -------------------------------------------------------------------------------------------


class Response(SimpleNamespace):
    """A response with the attributes that the hub's errors read."""

    headers: dict[str, str] = {}  # noqa: RUF012
    request = None


def hub(monkeypatch: pytest.MonkeyPatch, answer: Any, snapshot: Any) -> list[dict[str, Any]]:
    """Make `model_info` return `answer` and `snapshot_download` return `snapshot`; an exception is raised instead.

    Returns the arguments of the downloads, a list that grows.
    """
    asked: list[dict[str, Any]] = []

    def give(value: Any) -> Any:
        if isinstance(value, BaseException):
            raise value
        return value

    def model_info(_self: Any, _name: str, **_arguments: Any) -> Any:
        return give(answer)

    def snapshot_download(_name: str, **arguments: Any) -> Any:
        asked.append(arguments)
        return give(snapshot)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def info(*files: str) -> SimpleNamespace:
    return SimpleNamespace(sha="0" * 40, siblings=[SimpleNamespace(rfilename=file) for file in files])


def hub_error(kind: type[Exception]) -> Exception:
    return kind("no", response=Response())  # type: ignore[call-arg]


def test_a_hub_id_is_fetched_at_one_commit_and_only_what_is_needed(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("config.json", "model.safetensors", "model-fp16.safetensors", "tokenizer.json", "onnx/model.onnx", "a.bin")
    asked = hub(monkeypatch, info(*files), str(tiny_folder("bert")))
    said: list[str] = []
    base = load("someone/bert", progress=lambda label, _done, _total: said.append(label))
    assert (base.source, base.revision) == ("someone/bert", "0" * 40)
    assert asked == [{"revision": "0" * 40, "allow_patterns": ["config.json", "tokenizer.json", "model.safetensors"]}]
    assert said == ["fetching someone/bert"]


def test_without_a_network_the_hubs_cache_is_used(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = "1" * 40
    shutil.copytree(tiny_folder("bert"), tmp_path / commit)
    asked = hub(monkeypatch, ConnectionError("no route"), str(tmp_path / commit))
    base = load("someone/bert")
    assert base.revision == commit
    assert asked[0]["local_files_only"]


def test_a_wrong_name_without_a_network_is_told_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, ConnectionError("no route"), hub_errors.LocalEntryNotFoundError("not cached"))
    refused(Path("minlm"), "cannot be reached", "did you mean 'minilm'?")


def test_a_name_that_the_hub_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, hub_error(hub_errors.RepositoryNotFoundError), None)
    refused(Path("smolm2"), "there is no model 'smolm2'", "did you mean 'smollm2'?")


def test_a_gated_model_says_where_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, info("config.json", "model.safetensors"), hub_error(hub_errors.GatedRepoError))
    refused(Path("meta/llama"), "gated", "https://huggingface.co/meta/llama", "hf auth login")


def test_a_hub_model_without_safetensors_is_refused_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch, info("config.json", "pytorch_model.bin"), None)
    refused(Path("someone/old"), "no weights in safetensors format on the hub")
    assert asked == []


def test_a_download_that_breaks_off_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, info("config.json", "model.safetensors"), OSError("connection reset"))
    refused(Path("someone/bert"), "could not be fetched", "connection reset")
