"""The loading code that the card and the page show runs unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fake_run import adapt_report
from peft import LoraConfig, get_peft_model
from tiny_models import save_tiny, tiny_model

from domain_ft.verbs.adapt import words as adapt_words
from domain_ft.verbs.shared.facts import BaseFacts


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 uses it
@pytest.mark.parametrize(("architecture", "objective"), [("bert", "mlm"), ("llama", "clm")])
def test_the_shown_code_loads_the_adapter(
    architecture: str, objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, run = save_tiny(architecture, tmp_path / "base"), tmp_path / "run"
    adapted = get_peft_model(
        tiny_model(architecture), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    ).eval()
    adapted.save_pretrained(run / "adapter")
    report = adapt_report(
        base=BaseFacts(str(source), str(source)), result={**adapt_report().result, "objective": objective}
    )
    monkeypatch.chdir(run)
    names: dict[str, Any] = {}
    exec(adapt_words.loading_code(report), names)
    ids = torch.tensor([[3, 5, 8, 9]])
    with torch.no_grad():
        torch.testing.assert_close(names["model"].eval()(input_ids=ids).logits, adapted(input_ids=ids).logits)
    assert names["tokenizer"]("licence")["input_ids"]


def test_an_embedded_base_is_found_by_its_name() -> None:
    code = adapt_words.loading_code(adapt_report())
    assert "domain_ft.resolve('minilm')" in code
    assert "/somewhere" not in code
    compile(code, "card", "exec")


def test_a_model_trained_in_full_needs_no_adapter() -> None:
    code = adapt_words.loading_code(adapt_report(settings={"method": "full"}))
    assert "peft" not in code
    assert 'from_pretrained("model")' in code
