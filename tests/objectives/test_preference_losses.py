"""The preference losses equal plain implementations in float64, and do not depend on how a step is divided."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from preference_batches import Answer, answers, decoder, gradients, pair_batch, pairs, rated_batch, token_log_probs
from torch import Tensor

from domain_ft.models.base import BaseModel
from domain_ft.objectives.base import CoupledObjective
from domain_ft.objectives.preference.answers import LogProbs, PairLoss
from domain_ft.objectives.preference.cpo import CPO
from domain_ft.objectives.preference.dpo import DPO
from domain_ft.objectives.preference.hinge import Hinge
from domain_ft.objectives.preference.ipo import IPO
from domain_ft.objectives.preference.kto import KTO
from domain_ft.objectives.preference.orpo import ORPO, log_odds
from domain_ft.objectives.preference.paired import PairedPreferences
from domain_ft.objectives.preference.robust import Robust
from domain_ft.objectives.preference.simpo import SimPO

PAIRS = 8


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


Plain = Callable[[list[float], list[float], int, int], float]
"""The loss of a pair from the log-probabilities of its two answers under model and reference, and their lengths."""

LOSSES: dict[str, tuple[PairLoss, Plain]] = {
    "dpo": (DPO(beta=0.3), lambda p, q, n, m: -math.log(sigmoid(0.3 * ((p[0] - q[0]) - (p[1] - q[1]))))),
    "cdpo": (
        DPO(beta=0.3, label_smoothing=0.2),
        lambda p, q, n, m: (
            -0.8 * math.log(sigmoid(0.3 * ((p[0] - q[0]) - (p[1] - q[1]))))
            - 0.2 * math.log(sigmoid(-0.3 * ((p[0] - q[0]) - (p[1] - q[1]))))
        ),
    ),
    "robust": (
        Robust(beta=0.3, label_smoothing=0.2),
        lambda p, q, n, m: (
            (
                -0.8 * math.log(sigmoid(0.3 * ((p[0] - q[0]) - (p[1] - q[1]))))
                + 0.2 * math.log(sigmoid(-0.3 * ((p[0] - q[0]) - (p[1] - q[1]))))
            )
            / 0.6
        ),
    ),
    "hinge": (Hinge(beta=0.3), lambda p, q, n, m: max(0.0, 1 - 0.3 * ((p[0] - q[0]) - (p[1] - q[1])))),
    "ipo": (IPO(beta=0.3), lambda p, q, n, m: ((p[0] - q[0]) / n - (p[1] - q[1]) / m - 1 / 0.6) ** 2),
    "simpo": (SimPO(beta=2.0, gamma=0.7), lambda p, q, n, m: -math.log(sigmoid(2 * (p[0] / n - p[1] / m) - 0.7))),
    "cpo": (CPO(beta=0.3), lambda p, q, n, m: -math.log(sigmoid(0.3 * (p[0] - p[1])))),
    "orpo": (
        ORPO(beta=0.3),
        lambda p, q, n, m: (
            -0.3
            * math.log(
                sigmoid(
                    math.log(math.exp(p[0] / n) / (1 - math.exp(p[0] / n)))
                    - math.log(math.exp(p[1] / m) / (1 - math.exp(p[1] / m)))
                )
            )
        ),
    ),
}


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return decoder()


def plain_reference(sequences: list[Answer], other: BaseModel) -> np.ndarray:
    """(pairs, 2, 2) log-probabilities under another model: over whole answers, and over their shared lengths."""
    found = np.zeros((len(sequences) // 2, 2, 2))
    with torch.no_grad():
        for place, sequence in enumerate(sequences):
            shared = min(len(sequences[place][1]), len(sequences[place ^ 1][1]))
            logs = token_log_probs(other, sequence)
            found[place // 2, place % 2] = [float(logs.sum()), float(logs[:shared].sum())]
    return found


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    return plain_reference(pairs(PAIRS), decoder("qwen2"))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_losses_equal_plain_ones(name: str, architecture: str, reference: np.ndarray) -> None:
    """Each pair by itself, one plain forward pass an answer, the equation in Python's floats."""
    base, sequences = decoder(architecture), pairs(PAIRS)
    loss, plain = LOSSES[name]
    objective = PairedPreferences(pair_loss=loss, sft_weight=0.5, reference=reference, kernels="reference")
    inputs = objective.prepare(pair_batch(sequences, range(PAIRS)), 0)
    assert inputs.items == PAIRS
    with torch.no_grad():
        found = objective.row_losses(base, inputs)
        for row in range(PAIRS):
            logs = [token_log_probs(base, sequences[2 * row + place]) for place in (0, 1)]
            policy, lengths = [float(one.sum()) for one in logs], [len(one) for one in logs]
            expected = plain(policy, reference[row, :, 0].tolist(), *lengths) - 0.5 * policy[0] / lengths[0]
            assert float(found[row]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_length_desensitising_counts_the_tokens_beyond_the_shorter_answer_less(
    base: BaseModel, reference: np.ndarray, alpha: float
) -> None:
    sequences = pairs(PAIRS)
    objective = PairedPreferences(pair_loss=DPO(beta=0.3), length_weight=alpha, reference=reference)
    with torch.no_grad():
        found = objective.row_losses(base, objective.prepare(pair_batch(sequences, range(PAIRS)), 0))
        for row in range(PAIRS):
            better, worse = (token_log_probs(base, sequences[2 * row + place]) for place in (0, 1))
            shared = min(len(better), len(worse))
            policy = [float(one[:shared].sum() + alpha * one[shared:].sum()) for one in (better, worse)]
            whole, first = reference[row, :, 0], reference[row, :, 1]
            kept = first + alpha * (whole - first)
            expected = LOSSES["dpo"][1](policy, kept.tolist(), 1, 1)
            assert float(found[row]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_one_micro_batch_of_eight_pairs_gives_the_gradient_of_eight_of_one(
    base: BaseModel, reference: np.ndarray, name: str
) -> None:
    sequences = pairs(PAIRS)
    objective = PairedPreferences(
        pair_loss=LOSSES[name][0], sft_weight=0.3, length_weight=0.5, reference=reference, kernels="reference"
    )
    found = []
    for size in (PAIRS, 1):
        for first in range(0, PAIRS, size):
            inputs = objective.prepare(pair_batch(sequences, range(first, first + size)), 0)
            (objective.loss(base, inputs) / PAIRS).backward()
        found.append(gradients(base))
    assert any(bool(one.any()) for one in found[0])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-12)


def kto(reference: np.ndarray, sequences: list[Answer]) -> KTO:
    return KTO(
        desirable=np.arange(len(sequences)) % 3 > 0,
        reference=reference,
        desirable_weight=1.2,
        undesirable_weight=0.8,
        beta=0.3,
        sft_weight=0.3,
        kernels="reference",
    )


def kto_reference(sequences: list[Answer]) -> np.ndarray:
    """Log-probabilities under another model, of each answer and of the next example's answer."""
    other, found = decoder("qwen2"), np.zeros((len(sequences), 2, 2))
    with torch.no_grad():
        for row, (prompt, _) in enumerate(sequences):
            mismatched = (prompt, sequences[(row + 1) % len(sequences)][1])
            for place, sequence in enumerate((sequences[row], mismatched)):
                found[row, place] = float(token_log_probs(other, sequence).sum())
    return found - 3  # so that the baseline is above 0


def plain_kto(base: BaseModel, sequences: list[Answer], objective: KTO) -> Tensor:
    """The mean loss of all answers, from plain forward passes."""
    ratios, mismatched, likelihoods = [], [], []
    assert objective.reference is not None
    for row, (prompt, answer) in enumerate(sequences):
        logs = token_log_probs(base, (prompt, answer))
        ratios.append(logs.sum() - objective.reference[row, 0, 0])
        likelihoods.append(logs.mean())
        other = token_log_probs(base, (prompt, sequences[(row + 1) % len(sequences)][1]))
        mismatched.append(float(other.detach().sum()) - objective.reference[row, 1, 0])
    baseline = max(0.0, sum(mismatched) / len(mismatched))
    assert baseline > 0
    total = torch.zeros((), dtype=torch.float64)
    for row, desirable in enumerate(objective.desirable):
        if desirable:
            total = total + 1.2 * (1 - torch.sigmoid(0.3 * (ratios[row] - baseline))) - 0.3 * likelihoods[row]
        else:
            total = total + 0.8 * (1 - torch.sigmoid(0.3 * (baseline - ratios[row])))
    return total / len(sequences)


def test_kto_equals_a_plain_one(base: BaseModel) -> None:
    sequences = answers(PAIRS)
    objective = kto(kto_reference(sequences), sequences)
    expected = plain_kto(base, sequences, objective)
    expected.backward()
    wanted = gradients(base)
    found = objective.loss(base, objective.prepare(rated_batch(sequences, range(PAIRS)), 0)) / PAIRS
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    for one, other in zip(wanted, gradients(base), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_ktos_baseline_is_that_of_the_whole_step(base: BaseModel) -> None:
    """As the loop does it: all ratios without a gradient, then the gradient of the step's loss, by micro-batch."""
    sequences = answers(PAIRS)
    objective = kto(kto_reference(sequences), sequences)
    assert isinstance(objective, CoupledObjective)
    (objective.loss(base, objective.prepare(rated_batch(sequences, range(PAIRS)), 0)) / PAIRS).backward()
    whole = gradients(base)
    parts = [objective.prepare(rated_batch(sequences, range(row, row + 1)), 0) for row in range(PAIRS)]
    with torch.no_grad():
        ratios = torch.cat([objective.embeddings(base, part) for part in parts]).requires_grad_()
    loss = objective.step_loss(ratios, torch.cat([part.keys for part in parts]))
    for part, gradient in zip(parts, torch.autograd.grad(loss, ratios)[0].split(1), strict=True):
        (objective.loss(base, part.with_gradients(gradient)) / PAIRS).backward()
    for one, other in zip(whole, gradients(base), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_a_rank_without_rows_contributes_nothing(base: BaseModel, reference: np.ndarray) -> None:
    paired = PairedPreferences(pair_loss=DPO(), sft_weight=0.3, reference=reference)
    idle = paired.prepare(pair_batch(pairs(PAIRS), range(1)), 0).without_labels()
    rated = kto(kto_reference(answers(3)), answers(3))
    unrated = rated.prepare(rated_batch(answers(3), range(1)), 0).without_labels()
    for objective, inputs in ((paired, idle), (rated, unrated.with_gradients(torch.zeros(0, 2)))):
        assert inputs.items == 0
        loss = objective.loss(base, inputs)
        loss.backward()
        assert float(loss.detach()) == 0
        assert not any(bool(gradient.any()) for gradient in gradients(base))
    assert rated.embeddings(base, unrated).shape == (0, 2)


def test_before_training_dpo_is_log_two_and_its_kin_have_their_own_values(base: BaseModel) -> None:
    sequences = pairs(PAIRS)
    batch = pair_batch(sequences, range(PAIRS))
    own = plain_reference(sequences, base)
    for loss, expected in ((DPO(), math.log(2)), (Hinge(), 1.0), (IPO(beta=0.5), 1.0)):
        objective = PairedPreferences(pair_loss=loss, reference=own)
        with torch.no_grad():
            found = objective.row_losses(base, objective.prepare(batch, 0))
        assert found.tolist() == pytest.approx([expected] * PAIRS, rel=1e-9)


def log_probs(*sums: tuple[float, float]) -> LogProbs:
    return LogProbs(torch.tensor(sums, dtype=torch.float64), torch.full((len(sums), 2), 10))


@given(st.floats(-1e4, 1e4), st.floats(0, 0.49), st.floats(0.01, 1))
def test_the_robust_loss_of_labels_that_are_flipped_at_its_rate_is_dpos(
    margin: float, share: float, beta: float
) -> None:
    """In expectation over the flips, which is what makes it unbiased."""
    none = log_probs((0.0, 0.0))
    right, wrong = (
        float(Robust(beta=beta, label_smoothing=share).losses(log_probs(sums), none))
        for sums in ((margin, 0.0), (0.0, margin))
    )
    expected = float(DPO(beta=beta).losses(log_probs((margin, 0.0)), none))
    scale = max(abs(right), abs(wrong), 1.0)
    assert (1 - share) * right + share * wrong == pytest.approx(expected, rel=1e-9, abs=1e-12 * scale / (1 - 2 * share))


@given(st.floats(-800, -1e-300))
def test_log_odds_are_finite_and_exact_at_both_ends(log: float) -> None:
    value = torch.tensor(log, dtype=torch.float64, requires_grad=True)
    found = log_odds(value)
    found.backward()
    assert math.isfinite(float(found.detach()))
    assert value.grad is not None
    assert math.isfinite(float(value.grad)) or log > -1e-290
    assert float(found.detach()) == pytest.approx(log - math.log(-math.expm1(log)), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", ["dpo", "cdpo", "hinge", "ipo", "simpo", "cpo", "orpo"])
def test_a_better_model_has_a_lower_loss(name: str) -> None:
    loss, none = LOSSES[name][0], log_probs((-20.0, -20.0))
    worse, better = (float(loss.losses(log_probs(sums), none)) for sums in ((-20.0, -20.0), (-19.0, -21.0)))
    assert better < worse
