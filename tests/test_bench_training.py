"""The training benchmark: its FLOPs against torch's count, the fields of its rows, and the peer's batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flops
import numpy as np
import pytest
import training
from tiny_models import save_tiny
from torch.utils.flop_counter import FlopCounterMode

from domain_ft.corpus.documents import Document
from domain_ft.corpus.masking import MaskVocabulary
from domain_ft.corpus.tokens import TokenRows, tokenize
from domain_ft.models.base import BaseModel, load
from domain_ft.models.lora import LoraConfig, apply_lora, set_backend
from domain_ft.objectives.base import Objective
from domain_ft.objectives.causal_lm import CausalLM
from domain_ft.objectives.masked_lm import MaskedLM

RANK, LENGTH, PIECES = 4, 32, 6


class OneText:
    """A split with one long document, so that sequences are full."""

    key = "bench-training-1"

    def __len__(self) -> int:
        return 1

    def documents(self) -> Any:
        yield Document("text", " ".join(["the licensee shall not remove any notice"] * 100), "made")


@dataclasses.dataclass(frozen=True)
class FullRows:
    """The first sequences of `rows`, all of them full."""

    rows: TokenRows

    @property
    def lengths(self) -> np.ndarray:
        return np.asarray(self.rows.lengths[:PIECES])

    def pack(self, chosen: Any) -> Any:
        return self.rows.pack(chosen)


def small_job(architecture: str, folder: Path) -> SimpleNamespace:
    """The parts of a job that `flops.count` reads, with a tiny model."""
    base: BaseModel = load(str(save_tiny(architecture, folder)))
    apply_lora(base.model, LoraConfig(rank=RANK), seed=1)
    set_backend(base.model, "reference")
    rows = FullRows(tokenize(OneText(), base.tokenizer, max_length=LENGTH))
    assert set(rows.lengths) <= {LENGTH, LENGTH - 1}  # only a decoder's last sequence has an end token
    objective: Objective = (
        MaskedLM(vocabulary=MaskVocabulary.of(base.tokenizer), seed=5) if base.objective == "mlm" else CausalLM()
    )
    base.model.train()
    return SimpleNamespace(base=base, train_rows=rows, objective=objective)


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_flops_equal_torchs_count(architecture: str, tmp_path: Path) -> None:
    job = small_job(architecture, tmp_path)
    inputs = job.objective.prepare(job.train_rows.pack(range(PIECES)), 0)
    tokens = inputs.input_ids.numel()
    job.settings = SimpleNamespace(rank=RANK, mask_rate=inputs.items / tokens)
    with FlopCounterMode(display=False) as counter:
        job.objective.loss(job.base, inputs).backward()
    counted = {str(op): number / tokens for op, number in counter.get_flop_counts()["Global"].items()}
    found = flops.count(job)
    # Our fused loss is an op of its own, so the counts of mm and addmm lack `head`.
    assert found.linears + found.adapters == pytest.approx(counted["aten.mm"] + counted.get("aten.addmm", 0))
    vocabulary, hidden = job.base.model.get_output_embeddings().weight.shape
    labelled = inputs.items / tokens if architecture == "bert" else 1
    assert found.head == pytest.approx(4 * vocabulary * hidden * labelled)
    if architecture == "bert":
        assert found.attention == pytest.approx(counted["aten.bmm"])


def test_a_row_has_the_documented_fields_and_the_ratios_of_each_round() -> None:
    def one(rate: float, memory: int) -> dict[str, Any]:
        measured = {"tokens_per_second": rate, "peak_memory_bytes": memory, "final_loss": 5.0}
        return measured | {"padding_fraction": 0.0, "dtype": "float32", "flops_per_token": 1e6, "data_fraction": 0.01}

    # The second round was half as fast for all.
    turns = [
        {"ours": one(1000, 1), "peer": one(100, 4), "peer_no_dropout": one(200, 2)},
        {"ours": one(500, 1), "peer": one(50, 4), "peer_no_dropout": one(100, 2)},
        {"ours": one(1000, 1), "peer": one(125, 4), "peer_no_dropout": one(250, 2)},
    ]
    ceilings = [{"float32": rate, "best_float32": 2 * rate} for rate in (2e9, 1e9, 2e9)]
    row = training._row("minilm-legal", 4, turns, ceilings)
    assert row["job"] == "minilm-legal"
    assert row["ours"]["tokens_per_second"] == 1000
    assert row["ratios"]["peer"] == {"median": 10, "rounds": [10, 10, 8]}
    assert row["memory_ratios"]["peer_no_dropout"]["median"] == 0.5
    assert row["gemm_fraction"] == 0.5
    assert row["best_gemm_fraction"] == 0.25


@pytest.mark.parametrize(("architecture", "full_rows"), [("bert", False), ("llama", True)])
def test_the_peer_counts_the_tokens_of_the_steps_that_it_times(
    architecture: str, full_rows: bool, tmp_path: Path
) -> None:
    peer_trainer = pytest.importorskip("peer_trainer", exc_type=ImportError)
    model = save_tiny(architecture, tmp_path / architecture)
    texts = [" ".join(["the licensee shall not remove any notice"] * count) for count in range(1, 25)]
    peer_trainer.make_rows(model, texts, length=LENGTH, full_rows=full_rows, folder=tmp_path / "rows")
    recipe = peer_trainer.Recipe(
        model=model,
        rows=tmp_path / "rows",
        objective="clm" if full_rows else "mlm",
        dropout=True,
        by_length=not full_rows,
        longest_first=True,
        tokens_per_step=4 * LENGTH,
        steps=3,
        rank=RANK,
        learning_rate=1e-3,
        weight_decay=0.01,
        warmup=0.1,
        seed=0,
    )
    timed, adapter = peer_trainer.run(recipe, tmp_path / "run")
    assert (adapter / "adapter_config.json").is_file()
    assert timed.tokens <= timed.padded_tokens < timed.tokens + 2 * 4 * LENGTH
    if full_rows:
        assert (timed.tokens, timed.all_tokens) == (2 * 4 * LENGTH, 3 * 4 * LENGTH)
    else:
        lengths = peer_trainer.load_from_disk(tmp_path / "rows")["length"][:]
        assert max(lengths) == LENGTH
        assert len(lengths) == len(texts)
        assert 0 < timed.tokens < timed.all_tokens


def test_the_peers_batches_by_length_represent_its_epoch() -> None:
    peer_trainer = pytest.importorskip("peer_trainer", exc_type=ImportError)
    lengths = np.random.default_rng(0).integers(3, 256, 2_000).tolist()
    rows = peer_trainer.batches_by_length(lengths, batch=10, steps=11, seed=0, longest_first=True)
    batches = np.asarray(lengths)[rows].reshape(11, 10)
    assert batches[0].max() == max(lengths)  # the memory peak comes first and is not timed
    timed = batches[1:]
    assert timed.mean() == pytest.approx(np.mean(lengths), rel=0.05)
    assert np.ptp(timed, axis=1).max() < 32  # a batch has similar lengths
    assert len(set(rows[10:])) == 100


def test_the_private_functions_that_benchmarks_replace_exist() -> None:
    """`bench startup` replaces `_base_scores_file` and `_Trainer.take`, `bench training` `_Trainer.prepare`."""
    from domain_ft.training import loop
    from domain_ft.verbs.adapt import run

    assert callable(run._base_scores_file)
    assert callable(loop._Trainer.take)
    assert callable(loop._Trainer.prepare)
