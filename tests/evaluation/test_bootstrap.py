"""The paired bootstrap: exact where the answer is known, with intervals that nearly reach their stated coverage."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain_ft.errors import CheckpointError
from domain_ft.evaluation.bootstrap import FEWEST_UNITS, beyond_control, difference, interval, resampled_sums
from domain_ft.evaluation.scores import Scores, shared


def scores(nats: list[float], tokens: list[int], size: list[int] | None = None) -> Scores:
    return Scores(
        documents=tuple(f"doc-{i}" for i in range(len(nats))),
        nats=np.array(nats, dtype=np.float64),
        tokens=np.array(tokens, dtype=np.int64),
        bytes=np.array(size or [4 * t for t in tokens], dtype=np.int64),
    )


def random_scores(documents: int, rng: np.random.Generator, loss: float = 5.0) -> Scores:
    tokens = np.exp(rng.normal(4, 0.7, documents)).astype(np.int64) + 1
    nats = tokens * loss + rng.normal(0, 1, documents) * np.sqrt(tokens)
    return scores(nats.tolist(), tokens.tolist())


def shifted(before: Scores, loss: float) -> Scores:
    return Scores(before.documents, before.nats + loss * before.tokens, before.tokens, before.bytes)


def test_a_summary_divides_sums_once() -> None:
    summary = scores([10.0, 2.0], [4, 2], [16, 4]).summary()
    assert summary["loss"] == 2.0
    assert summary["perplexity"] == pytest.approx(math.exp(2.0))
    assert summary["bits_per_byte"] == pytest.approx(12 / math.log(2) / 20)
    assert (summary["tokens"], summary["bytes"]) == (6, 20)


def test_a_huge_loss_still_has_a_finite_perplexity() -> None:
    assert math.isfinite(scores([5000.0], [1]).summary()["perplexity"])


def test_nothing_scored_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was scored"):
        scores([], []).summary()


def test_saved_scores_are_loaded_bit_for_bit(tmp_path: Path) -> None:
    before = random_scores(50, np.random.default_rng(0))
    before.save(tmp_path / "scores.json")
    after = Scores.load(tmp_path / "scores.json")
    assert after.documents == before.documents
    for column in ("nats", "tokens", "bytes"):
        np.testing.assert_array_equal(getattr(after, column), getattr(before, column))
        assert getattr(after, column).dtype == getattr(before, column).dtype


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"documents": ["a"], "nats": [], "tokens": [], "bytes": []}'])
def test_damaged_scores_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"scores\.json"):
        Scores.load(path)
    with pytest.raises(CheckpointError):
        Scores.load(tmp_path / "missing.json")


def test_shared_keeps_only_the_documents_of_both() -> None:
    first = scores([1.0, 2.0, 3.0], [1, 2, 3])
    second = Scores(("doc-2", "doc-9", "doc-0"), np.array([30.0, 9.0, 10.0]), np.array([3, 9, 1]), np.array([9, 9, 9]))
    left, right = shared(first, second)
    assert left.documents == right.documents == ("doc-0", "doc-2")
    assert left.nats.tolist() == [1.0, 3.0]
    assert right.nats.tolist() == [10.0, 30.0]


@given(st.floats(-3, 3), st.integers(2, 40), st.integers(0, 10_000))
def test_an_equal_shift_of_all_documents_is_found_exactly(shift: float, documents: int, seed: int) -> None:
    before = random_scores(documents, np.random.default_rng(seed))
    found = difference(before, shifted(before, shift), seed=seed, resamples=50)
    assert found["loss"] == pytest.approx(shift, abs=1e-9)
    if documents < FEWEST_UNITS:
        assert found["interval"] is None
    else:
        assert found["interval"] == pytest.approx([shift, shift], abs=1e-9)
    assert found["few_documents"] == (documents < 10)


def test_the_same_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(0)
    before, after = random_scores(30, rng), random_scores(30, rng, 4.5)
    after = Scores(before.documents, after.nats, before.tokens, before.bytes)
    assert difference(before, after, seed=1) == difference(before, after, seed=1)
    assert difference(before, after, seed=1)["interval"] != difference(before, after, seed=2)["interval"]


def test_bits_per_byte_agree_with_the_loss() -> None:
    before = random_scores(30, np.random.default_rng(0))
    found = difference(before, shifted(before, -0.5))
    assert found["bits_per_byte"] == pytest.approx(-0.5 / math.log(2) / 4)
    summaries = [one.summary()["bits_per_byte"] for one in (before, shifted(before, -0.5))]
    assert found["bits_per_byte"] == pytest.approx(summaries[1] - summaries[0])


def test_another_tokenizer_compares_by_bytes_alone() -> None:
    before = scores([8.0, 9.0], [4, 4], [20, 20])
    after = scores([8.0, 9.0], [5, 6], [20, 20])
    found = difference(before, after)
    assert found["loss"] is None
    assert found["interval"] is None
    assert found["bits_per_byte"] == 0


def test_one_document_has_no_interval() -> None:
    found = difference(scores([8.0], [4]), scores([4.0], [4]))
    assert found["loss"] == -1
    assert found["interval"] is None
    assert found["few_documents"]


def test_other_documents_are_refused() -> None:
    before = scores([8.0, 9.0], [4, 4])
    with pytest.raises(ValueError, match="same documents"):
        difference(before, before.only({"doc-0"}))


def test_the_gain_on_the_control_is_subtracted() -> None:
    rng = np.random.default_rng(0)
    domain, control = random_scores(40, rng), random_scores(20, rng)
    found = beyond_control((domain, shifted(domain, -1.5)), (control, shifted(control, -0.25)))
    assert found["loss"] == pytest.approx(-1.25)
    assert found["interval"] == pytest.approx([-1.25, -1.25])
    assert found["documents"] == 20


def test_blocks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(0).normal(size=(17, 3))
    whole = resampled_sums(columns, 100, np.random.default_rng(5))
    monkeypatch.setattr("domain_ft.evaluation.bootstrap._BLOCK", 40)
    np.testing.assert_array_equal(resampled_sums(columns, 100, np.random.default_rng(5)), whole)


@pytest.mark.parametrize(("documents", "at_least"), [(8, 0.88), (30, 0.91), (100, 0.92)])
def test_intervals_cover_the_truth(documents: int, at_least: float) -> None:
    """In 300 simulated samples, in which lengths are skewed and the effect depends on a document's length."""
    rng = np.random.default_rng(documents)

    def world(size: int) -> tuple[Scores, Scores]:
        before = random_scores(size, rng)
        effect = rng.normal(-0.3, 0.3, size) - 0.05 * np.log(before.tokens)
        return before, Scores(before.documents, before.nats + effect * before.tokens, before.tokens, before.bytes)

    large_before, large_after = world(400_000)
    truth = large_after.summary()["loss"] - large_before.summary()["loss"]
    covered = 0
    for number in range(300):
        found = difference(*world(documents), seed=number, resamples=600)
        low, high = found["interval"]
        covered += low <= truth <= high
    assert covered / 300 >= at_least


def test_few_documents_widen_the_interval() -> None:
    replicates = np.random.default_rng(0).normal(size=20_000)
    few, many = interval(replicates, 5), interval(replicates, 5000)
    assert few is not None
    assert many is not None
    assert few[1] - few[0] > 1.3 * (many[1] - many[0])
    assert many == pytest.approx([-1.96, 1.96], abs=0.06)


@given(st.integers(1, FEWEST_UNITS - 1), st.integers(0, 100))
def test_fewer_than_five_documents_have_no_interval(documents: int, seed: int) -> None:
    before = random_scores(documents, np.random.default_rng(seed))
    found = difference(before, shifted(before, -1.0), seed=seed, resamples=50)
    assert found["loss"] == pytest.approx(-1.0)
    assert found["interval"] is None
    assert found["bits_per_byte_interval"] is None
