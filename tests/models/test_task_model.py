"""Models with a task head: packed micro-batches have the model's own logits, and so have saved runs, in PEFT too."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import ENCODERS, MAX_LENGTH, SUPPORTED, VOCABULARY, save_tiny
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from domain_ft.corpus.examples import Labels
from domain_ft.errors import ModelError
from domain_ft.models.base import load
from domain_ft.models.export import export_model
from domain_ft.models.lora import LoraConfig, apply_lora, has_lora, lora_of
from domain_ft.models.peft_format import save_adapter
from domain_ft.models.targets import head_modules
from domain_ft.models.task_facts import TASK_NAME, TaskFacts
from domain_ft.models.task_micro_batches import TaskTokens
from domain_ft.models.task_model import TaskModel, load_task_model, load_task_run, reset_head
from domain_ft.verbs.export.run import export
from domain_ft.verbs.export.settings import ExportSettings

LABELS = Labels(("law", "medicine", "animals"))
LENGTHS = (5, 5, 40, 17, 1, 17)
GENERATOR = torch.Generator().manual_seed(0)
SEQUENCES = [torch.randint(6, VOCABULARY, (length,), generator=GENERATOR) for length in LENGTHS]
TAGGERS = tuple(architecture for architecture in SUPPORTED if architecture != "opt")  # OPT has no class for tokens
EXACT = 1e-9  # relative to the largest logit, in float64


def examples(belongs: Sequence[int] = range(len(LENGTHS))) -> TaskTokens:
    """The sequences, as windows of the examples in `belongs`; the second half of each is another segment."""
    tokens = TaskTokens.of([sequence.tolist() for sequence in SEQUENCES])
    segments = torch.cat([types_of(sequence) for sequence in SEQUENCES])
    return dataclasses.replace(tokens, type_ids=segments, owners=torch.tensor(belongs), examples=belongs[-1] + 1)


def types_of(sequence: Tensor) -> Tensor:
    return (torch.arange(len(sequence)) >= len(sequence) // 2).long()


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from an architecture to its tiny model's folder, which the tests share and must not change."""
    root = tmp_path_factory.mktemp("models")

    def folder(architecture: str) -> Path:
        path = root / architecture
        return path if path.exists() else save_tiny(architecture, path)

    return folder


def disturb(parameters: Any, scale: float = 0.3) -> None:
    """Add random numbers to `parameters`, as training would change them."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=scale)


def opened(folder: Path | str, **options: Any) -> TaskModel:
    """A task model in float64 whose new modules are disturbed, so that its logits differ."""
    model = load_task_model(str(folder), LABELS, dtype=torch.float64, **options)
    for path in model.new_modules:
        disturb(model.model.get_submodule(path).parameters())
    return model


def own_logits(model: Any, kind: str = "sequence", typed: bool = False) -> Tensor:
    """The logits of transformers' class for each sequence alone."""
    parts = []
    with torch.no_grad():
        for sequence in SEQUENCES:
            arguments = {"token_type_ids": types_of(sequence)[None]} if typed else {}
            parts.append(model(input_ids=sequence[None], **arguments).logits[0])
    return torch.cat(parts) if kind == "token" else torch.stack(parts)


def logits(model: TaskModel) -> Tensor:
    with torch.no_grad():
        return model.logits(examples())


def assert_equal(found: Tensor, expected: Tensor) -> None:
    """Check that the logits are equal to the rounding of float64, and that they are not all alike."""
    assert expected.std(0).min() > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT * expected.abs().max().item())


# --- Packed micro-batches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_packed_texts_have_the_models_own_logits(architecture: str, tiny_folder: Callable[[str], Path]) -> None:
    """With segments, if the model has embeddings for them."""
    model = opened(tiny_folder(architecture))
    assert model.packed
    assert model.max_length == MAX_LENGTH
    typed = architecture in ("bert", "roberta", "xlm-roberta", "electra", "albert")
    expected = own_logits(model.model, typed=typed)
    assert_equal(logits(model), expected)
    if typed:
        assert (expected - own_logits(model.model)).abs().max() > 1e-6


@pytest.mark.parametrize("architecture", TAGGERS)
def test_packed_tokens_have_the_models_own_logits(architecture: str, tiny_folder: Callable[[str], Path]) -> None:
    model = opened(tiny_folder(architecture), kind="token")
    typed = architecture in ("bert", "roberta", "xlm-roberta", "electra", "albert")
    assert_equal(logits(model), own_logits(model.model, "token", typed))


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_float32_is_as_near_to_float64_as_the_model_itself(
    architecture: str, tiny_folder: Callable[[str], Path]
) -> None:
    exact = opened(tiny_folder(architecture))
    rounded = load_task_model(str(tiny_folder(architecture)), LABELS)
    rounded.model.load_state_dict(exact.model.state_dict())
    typed = architecture == "bert"
    truth = own_logits(exact.model, typed=typed)
    error = (own_logits(rounded.model, typed=typed) - truth).abs().max()
    found = logits(rounded)
    assert found.dtype == torch.float32
    assert (found - truth).abs().max() <= 4 * error + 1e-7


@pytest.mark.parametrize("architecture", ["camembert", "mpnet", "deberta-v2", "gemma2", "mistral"])
@pytest.mark.parametrize("kind", ["sequence", "token"])
def test_other_architectures_are_packed_where_that_is_exact(
    architecture: str, kind: str, tiny_folder: Callable[[str], Path]
) -> None:
    model = load_task_model(str(tiny_folder(architecture)), LABELS, kind=kind)
    for path in model.new_modules:
        disturb(model.model.get_submodule(path).parameters())
    assert model.packed == (architecture in ("camembert", "mistral"))
    expected = own_logits(model.model, kind)
    untyped = dataclasses.replace(examples(), type_ids=torch.zeros(sum(LENGTHS), dtype=torch.long))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(untyped), expected, rtol=0, atol=1e-5)
    assert model.padding_fraction(untyped) == (0 if model.packed else pytest.approx(4 / 89))


def test_windows_of_an_example_are_averaged(tiny_folder: Callable[[str], Path]) -> None:
    model = opened(tiny_folder("bert"))
    each = logits(model)
    with torch.no_grad():
        found = model.logits(examples([0, 0, 0, 1, 2, 2]))
    assert_equal(found, torch.stack([each[:3].mean(0), each[3], each[4:].mean(0)]))


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "mpnet"])
def test_features_are_the_mean_of_the_last_hidden_states(architecture: str, tiny_folder: Callable[[str], Path]) -> None:
    model = load_task_model(str(tiny_folder(architecture)), LABELS)
    inputs = dataclasses.replace(examples([0, 0, 0, 1, 2, 2]), type_ids=torch.zeros(sum(LENGTHS), dtype=torch.long))
    with torch.no_grad():
        hidden = [model.model.base_model(input_ids=sequence[None]).last_hidden_state[0] for sequence in SEQUENCES]
        expected = torch.stack([torch.cat(hidden[:3]).mean(0), hidden[3].mean(0), torch.cat(hidden[4:]).mean(0)])
        torch.testing.assert_close(model.features(inputs), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_both_poolings_of_modernbert(pooling: str, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = save_tiny("modernbert", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"classifier_pooling": pooling}))
    model = opened(folder)
    assert_equal(logits(model), own_logits(model.model))


def test_a_decoder_reads_the_last_token_that_is_no_padding(tmp_path: Path) -> None:
    """As transformers' classes do, so that what is exported gives the logits that were trained."""
    folder = save_tiny("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": int(SEQUENCES[2][-1])}))
    model = opened(folder)
    assert_equal(logits(model), own_logits(model.model))


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_every_parameter_has_a_gradient(architecture: str, tiny_folder: Callable[[str], Path]) -> None:
    """Several processes can train the model only then, since each waits for all gradients."""
    model = load_task_model(str(tiny_folder(architecture)), LABELS)
    model.model.requires_grad_(True)
    model.logits(examples()).square().sum().backward()
    assert [name for name, p in model.model.named_parameters() if p.grad is None] == []


# --- Heads ------------------------------------------------------------------------------------------------------------

NEW = {
    "bert": ("bert.pooler", "classifier"),
    "albert": ("albert.pooler", "classifier"),
    "distilbert": ("pre_classifier", "classifier"),
    "modernbert": ("classifier",),  # its prediction head comes from the language model
}


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_modules_that_a_checkpoint_lacks_are_new(architecture: str, tiny_folder: Callable[[str], Path]) -> None:
    model = load_task_model(str(tiny_folder(architecture)), LABELS)
    assert model.new_modules == NEW.get(architecture, ("classifier",) if architecture in ENCODERS else ("score",))
    assert model.model.config.id2label == {0: "law", 1: "medicine", 2: "animals"}
    assert model.model.config.label2id["animals"] == 2
    assert model.model.config.problem_type == "single_label_classification"


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "gpt2"])
def test_a_head_is_a_function_of_its_seed(architecture: str, tiny_folder: Callable[[str], Path]) -> None:
    model = load_task_model(str(tiny_folder(architecture)), LABELS)
    inside = tuple(f"{path}." for path in model.new_modules)

    def states() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The tensors of the head, and all others."""
        state = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
        head = {name: state.pop(name) for name in list(state) if name.startswith(inside)}
        return head, state

    head, body = states()
    torch.manual_seed(5)
    generator_state = torch.random.get_rng_state()
    reset_head(model, 1)
    assert torch.equal(torch.random.get_rng_state(), generator_state)
    other, same = states()
    assert all(torch.equal(other[name], head[name]) == name.endswith("bias") for name in head)
    assert all(torch.equal(same[name], body[name]) for name in body)

    lora = apply_lora(model.model, LoraConfig(rank=2, train_modules=model.new_modules))
    disturb(lora.trainable_parameters().values())
    _, body = states()
    for seed, expected in ((1, other), (0, head)):  # whatever the head was before, and with LoRA too
        reset_head(model, seed)
        found, same = states()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert all(torch.equal(same[name], body[name]) for name in body)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert"])
def test_a_multi_label_head_starts_at_the_shares_of_its_classes(
    architecture: str, tiny_folder: Callable[[str], Path]
) -> None:
    """The sigmoid of the last layer's bias is the share of each class."""
    model = load_task_model(str(tiny_folder(architecture)), Labels(LABELS.names, multi_label=True))
    shares = np.array([0.5, 0.02, 0.9])
    reset_head(model, 0, shares)
    last = [module for module in model.model.modules() if isinstance(module, torch.nn.Linear)][-1]
    torch.testing.assert_close(torch.sigmoid(last.bias), torch.tensor(shares, dtype=torch.float32))
    reset_head(model, 0)
    assert not last.bias.any()


def test_a_checkpoints_own_head_is_replaced(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    first = opened(tiny_folder("roberta"))
    first.model.save_pretrained(tmp_path / "three")
    first.tokenizer.save_pretrained(tmp_path / "three")
    same = load_task_model(str(tmp_path / "three"), LABELS)
    assert same.new_modules == ("classifier",)
    assert "checkpoint's head, classifier, is replaced" in same.notes[-1]
    assert not torch.equal(same.model.classifier.out_proj.weight, first.model.classifier.out_proj.weight.float())
    other = load_task_model(str(tmp_path / "three"), Labels(("yes", "no")))
    assert other.model.classifier.out_proj.weight.shape == (2, 32)
    assert other.new_modules == ("classifier",)


def test_a_pretrained_pooler_is_kept(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    first = opened(tiny_folder("bert"))
    first.model.save_pretrained(tmp_path / "whole")
    first.tokenizer.save_pretrained(tmp_path / "whole")
    again = load_task_model(str(tmp_path / "whole"), LABELS, dtype=torch.float64)
    assert again.new_modules == ("classifier",)
    assert torch.equal(again.model.bert.pooler.dense.weight, first.model.bert.pooler.dense.weight)


def test_several_labels_are_in_the_config(tiny_folder: Callable[[str], Path]) -> None:
    model = load_task_model(str(tiny_folder("bert")), Labels(("a", "b"), multi_label=True))
    assert model.model.config.problem_type == "multi_label_classification"


def test_a_model_without_a_class_for_the_task_is_refused(tiny_folder: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match=r"type 'opt', for which transformers has no class to classify tokens"):
        load_task_model(str(tiny_folder("opt")), LABELS, kind="token")
    with pytest.raises(ModelError, match="'cohere'"):
        load_task_model(str(tiny_folder("cohere")), LABELS)


def test_missing_weights_of_the_body_are_refused(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = save_tiny("bert", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.0.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"bert\.encoder\.layer\.0\.output\.dense\.weight"):
        load_task_model(str(folder), LABELS)


# --- Saved and loaded -------------------------------------------------------------------------------------------------


def trained(folder: Path | str, rank: int = 2, **options: Any) -> TaskModel:
    """A task model in float64 with random updates of its adapter and its new modules."""
    model = load_task_model(str(folder), LABELS, dtype=torch.float64, **options)
    if not has_lora(model.model):
        apply_lora(model.model, LoraConfig(rank=rank, train_modules=model.new_modules))
    disturb(lora_of(model.model).trainable_parameters().values())
    return model


def write_run(model: TaskModel, run: Path) -> None:
    """Write the files of a finished run that loading reads."""
    run.mkdir(exist_ok=True)
    if has_lora(model.model):
        save_adapter(
            model.model, run / "adapter", base_name=model.source, revision=model.revision, task_type=model.task_type
        )
    facts = {"kind": model.kind, "labels": list(model.labels.names), "several": model.labels.multi_label}
    (run / TASK_NAME).write_text(json.dumps(facts))
    (run / "result.json").write_text("{}")


def quiet_peft(model: nn.Module, folder: Path) -> peft.PeftModel:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return peft.PeftModel.from_pretrained(model, folder)


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [(architecture, "sequence") for architecture in SUPPORTED] + [(architecture, "token") for architecture in TAGGERS],
)
def test_peft_and_we_load_a_run_with_equal_logits(
    architecture: str, kind: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model = trained(tiny_folder(architecture), kind=kind)
    typed = model._reads_types
    expected = logits(model)
    write_run(model, tmp_path / "run")

    auto = AutoModelForSequenceClassification if kind == "sequence" else AutoModelForTokenClassification
    base = auto.from_pretrained(tiny_folder(architecture), num_labels=3, dtype=torch.float64)
    theirs = quiet_peft(base, tmp_path / "run" / "adapter").eval()
    assert_equal(own_logits(theirs, kind, typed), expected)

    ours = load_task_run(tmp_path / "run", dtype=torch.float64)
    assert (ours.kind, ours.labels, ours.task_type) == (model.kind, model.labels, model.task_type)
    assert not has_lora(ours.model)
    assert_equal(logits(ours), expected)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "modernbert"])
def test_a_run_is_exported_with_its_label_names(
    architecture: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model = trained(tiny_folder(architecture))
    expected = logits(model)
    write_run(model, tmp_path / "run")
    export(ExportSettings(model=str(tmp_path / "run"), output=tmp_path / "merged", quiet=True))
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.id2label == dict(enumerate(LABELS.names))
    found = own_logits(merged, typed=model._reads_types)  # in float32, as runs are
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_a_fully_trained_run_is_loaded(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = opened(tiny_folder("distilbert"))
    export_model(model, tmp_path / "run" / "model")
    write_run(model, tmp_path / "run")
    assert_equal(logits(load_task_run(tmp_path / "run", dtype=torch.float64)), logits(model))


def test_models_of_another_kind_are_refused(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a finished run of classify or tag"):
        load_task_run(tiny_folder("bert"))
    write_run(trained(tiny_folder("bert")), tmp_path)
    with pytest.raises(ModelError, match="whose head is for another task"):
        load_task_model(str(tmp_path), LABELS)
    with pytest.raises(ModelError, match="is not a language model"):
        load(str(tmp_path))


# --- After adapt ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["bert", "roberta", "modernbert", "llama"])
def adapted(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A run of adapt that trains the LM head too: in full, or in BERT by LoRA. Llama's has nothing to train."""
    base = load(str(tiny_folder(request.param)), dtype=torch.float64)
    heads = tuple(head_modules(base.model)) if request.param != "bert" else ()
    lora = apply_lora(base.model, LoraConfig(rank=3, alpha=6, train_modules=heads))
    disturb(lora.trainable_parameters().values(), 0.1)
    run = tmp_path / "adapted"
    save_adapter(base.model, run / "adapter", base_name=base.source, revision=base.revision)
    (run / "result.json").write_text("{}")
    return run


def body_state(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefix)}


def test_a_runs_adapter_is_merged_into_the_body(adapted: Path) -> None:
    language_model = load(str(adapted), dtype=torch.float64).model
    model = load_task_model(str(adapted), LABELS, dtype=torch.float64)
    assert not has_lora(model.model)
    assert model.source == str(adapted.resolve())
    own = model.model.state_dict()
    for name, tensor in body_state(language_model, language_model.base_model_prefix).items():
        assert torch.equal(own[name], tensor), name


def test_training_can_continue_a_runs_adapter(adapted: Path, tmp_path: Path) -> None:
    """The adapter is on the original base, and before the training the body computes what the run's does."""
    merged = load_task_model(str(adapted), LABELS, dtype=torch.float64)
    model = load_task_model(str(adapted), LABELS, dtype=torch.float64, adapter="continue")
    with torch.no_grad():
        torch.testing.assert_close(model.features(examples()), merged.features(examples()), rtol=0, atol=1e-6)
    lora = lora_of(model.model)
    assert lora.config.rank == 3
    assert set(model.new_modules) <= set(lora.trained_modules)
    assert (
        model.source == json.loads((adapted / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    )
    for path in model.new_modules:
        for name, tensor in merged.model.get_submodule(path).state_dict().items():
            assert torch.equal(model.model.get_submodule(path).state_dict()[name], tensor)

    disturb(lora.trainable_parameters().values(), 0.1)
    write_run(model, tmp_path / "run")
    expected = logits(model)
    assert_equal(logits(load_task_run(tmp_path / "run", dtype=torch.float64)), expected)
    base = AutoModelForSequenceClassification.from_pretrained(model.source, num_labels=3, dtype=torch.float64)
    theirs = quiet_peft(base, tmp_path / "run" / "adapter").eval()
    assert_equal(own_logits(theirs, typed=model._reads_types), expected)


def test_a_task_on_a_run_is_loaded_from_both(adapted: Path, tmp_path: Path) -> None:
    model = trained(adapted)
    write_run(model, tmp_path / "run")
    assert_equal(logits(load_task_run(tmp_path / "run", dtype=torch.float64)), logits(model))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "holds a list where a JSON object is expected"),
        ("{", "not JSON"),
        ("{}", "has no 'kind'"),
        ('{"labels": ["a", 3], "several": false, "kind": "sequence"}', "the labels are not a list of names"),
        ('{"labels": ["a", "b"], "several": false, "kind": ["sequence"]}', "holds a list where a text is expected"),
    ],
)
def test_a_malformed_task_file_is_named(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / TASK_NAME).write_text(content)
    with pytest.raises(ModelError, match=said) as caught:
        load_task_run(tmp_path)
    assert str(tmp_path / TASK_NAME) in str(caught.value)
    assert caught.value.fix


def test_the_former_name_of_a_key_is_read(tmp_path: Path) -> None:
    facts = {"kind": "sequence", "labels": ["a", "b"], "several": True, "method": "lora", "base": "x", "max_length": 64}
    (tmp_path / TASK_NAME).write_text(json.dumps(facts), encoding="utf-8")
    (tmp_path / "result.json").write_text("{}", encoding="utf-8")
    assert TaskFacts.load(tmp_path).multi_label is True


# --- A scalar head ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_one_label_is_a_scalar_head(architecture: str, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    score = Labels(("score",), multi_label=True)
    model = load_task_model(str(tiny_folder(architecture)), score, dtype=torch.float64)
    disturb(parameter for path in model.new_modules for parameter in model.model.get_submodule(path).parameters())
    scores = logits(model)
    assert scores.shape == (len(LENGTHS), 1)
    assert_equal(scores, own_logits(model.model, typed=architecture == "bert"))
    export_model(model, tmp_path / "scalar")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "scalar", dtype=torch.float64)
    assert_equal(own_logits(loaded, typed=architecture == "bert"), scores)
