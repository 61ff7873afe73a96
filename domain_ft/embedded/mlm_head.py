"""Fits a masked-LM head to the frozen body of an encoder that has none.

An encoder that was trained for another task, such as sentence similarity, loads with a random head, whose loss means
nothing. The head of the BERT family maps a hidden state h (D,) to logits (V,) by

    z = LayerNorm(act(W h + c)) * g + s,     logits = E z + b,

where E has the input embeddings e_t as rows and is not changed. The body is frozen, so the hidden states at the n
masked positions are computed once. The rest takes seconds:

1. Whitening: u = S^(-1/2) (h - mean), with S the covariance of h, since variances differ by orders of magnitude between
   directions.
2. Initialisation of W, c, g, s, b in closed form by linear discriminant analysis: u given the token t is assumed normal
   with mean Rᵀ (e_t - e) and covariance I, where e is the mean embedding of the labels. So, up to a constant, the
   logits are e_t · R u - |Rᵀ (e_t - e)|²/2 + log p_t. R is fitted by ridge regression of u on the embeddings; p_t are
   the smoothed token frequencies in all the text, not only at masked positions. Large constants in c make the
   activation and the layer norm nearly linear at first.
3. Two epochs of Adam (EPOCHS) on the exact loss over the tokens that occur as labels. Only W, c, g, s and b are
   trained. They are then folded into the model's modules.

In the shapes below, E is the size of an embedding, not the matrix E.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from domain_ft.errors import ModelError
from domain_ft.models.base import BaseModel, Tokens
from domain_ft.progress import Progress
from domain_ft.randomness import generator
from domain_ft_kernels import linear_cross_entropy

IGNORED = -100  # the label of a position that is not masked

EPOCHS = 2
BATCH = 1024  # positions per step
LEARNING_RATE = 1e-2  # of c, g, s and b
MATRIX_LEARNING_RATE = 0.1  # of W, relative to the root mean square of its initial entries
WARM_UP = 10  # steps
HELD_OUT = 15  # one in this many micro-batches is held out for the losses; odd, because two corpora alternate

_RIDGE = 10.0  # relative to the mean variance of the labels' embeddings along a direction
_DISCRIMINANT = 1.3  # factor on R, which makes up for its shrinkage by the ridge
_WHITENING_FLOOR = 1e-3  # relative to the mean variance of the hidden states along a direction
_SHIFT, _SPREAD = 3.0, 0.5  # c starts at _SHIFT ± _SPREAD, where GELU is nearly the identity
_ACTIVATION_NAMES = ("hidden_act", "activation", "hidden_activation")  # in config.json
_SMOOTHING = 0.07  # weight of the uniform distribution that is mixed into the frequencies


@dataclass(frozen=True)
class HeadReport:
    """The result of fitting a head. Losses are in nats per masked token, on the held-out micro-batches.

    Attributes:
        positions: masked positions trained on.
        held_out_positions: masked positions that the losses are measured on.
        loss_unigram: of predicting the token frequencies only.
        loss_random: of the original head.
        loss_closed_form: of the closed-form head, before gradient steps.
        loss: of the fitted head.
    """

    positions: int
    held_out_positions: int
    loss_unigram: float
    loss_random: float
    loss_closed_form: float
    loss: float


def fit_mlm_head(
    base: BaseModel,
    micro_batches: Sequence[tuple[Tokens, Tensor]],
    frequencies: Tensor,
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    progress: Progress | None = None,
) -> HeadReport:
    """Fit the head of a masked LM to its frozen body, in place; only the head's weights change.

    Deterministic to the last bit on the same machine with the same number of threads.

    Args:
        base: an encoder with packed attention; its head may be random.
        micro_batches: masked rows of tokens, each with labels (T,): the original token if it is masked, else -100.
        frequencies: (V,) token frequencies of the text that the micro-batches come from, on any scale.
        seed: of the order of the positions.
        epochs: times that each position is trained on.
        progress: called after each micro-batch and each step.

    Raises:
        ModelError: the head has another structure than that in the module's docstring, the model needs padding, or
            there is only one micro-batch.
    """
    if not base.packed:
        raise ModelError(
            f"'{base.name}' is of type '{base.model.config.model_type}', whose batches are padded; a head can only be "
            "fitted on packed rows.",
            fix="use a model that comes with its head",
        )
    head = _Head.of(base.model)
    training, held_out = _hidden_states(base, head, micro_batches, progress)
    embeddings = base.model.get_output_embeddings().weight.detach()
    shares = (frequencies / frequencies.sum()).to(embeddings)
    unigram = torch.lerp(shares, torch.full_like(shares, 1 / len(shares)), _SMOOTHING).log()

    losses = [_loss(torch.zeros(len(held_out.labels), embeddings.shape[1]), embeddings, unigram, held_out.labels)]
    losses.append(_loss(head.output(held_out.hidden), embeddings, head.bias, held_out.labels))
    whitening = _Whitening.of(training.hidden, centred=head.dense.bias is not None)
    fit = _discriminant(whitening(training.hidden), training.labels, embeddings, unigram, head)
    losses.append(_loss(fit.output(whitening(held_out.hidden)), embeddings, fit.b, held_out.labels))
    _descend(fit, whitening(training.hidden), training.labels, embeddings, seed, epochs, progress)
    losses.append(_loss(fit.output(whitening(held_out.hidden)), embeddings, fit.b, held_out.labels))
    fit.fold_into(head, whitening)
    return HeadReport(len(training.labels), len(held_out.labels), *losses)


@dataclass(frozen=True)
class _Head:
    """The modules of a head. The weight of the output projection is not fitted, only its bias."""

    dense: nn.Linear
    activation: Callable[[Tensor], Tensor]
    norm: nn.LayerNorm
    projection: nn.Linear

    @classmethod
    def of(cls, model: PreTrainedModel) -> _Head:
        """The head of `model`.

        Raises:
            ModelError: the head has other modules.
        """
        projection = model.get_output_embeddings()
        body = {id(module) for module in model.base_model.modules()} | {id(projection)}
        rest = [module for module in model.modules() if id(module) not in body]
        dense = [module for module in rest if isinstance(module, nn.Linear)]
        norms = [module for module in rest if isinstance(module, nn.LayerNorm)]
        config = model.config
        activation = next((value for name in _ACTIVATION_NAMES if (value := getattr(config, name, None))), None)
        if projection is None or len(dense) != 1 or len(norms) != 1 or activation not in ACT2FN:
            raise _unknown_head(model)
        return cls(dense[0], ACT2FN[activation], norms[0], projection)

    @property
    def bias(self) -> Tensor | None:
        """(V,) of the output projection, or None."""
        return None if self.projection.bias is None else self.projection.bias.detach()

    @torch.no_grad()
    def output(self, hidden: Tensor) -> Tensor:
        """The input (n, E) of the output projection, from hidden states (n, D)."""
        return self.norm(self.activation(self.dense(hidden)))


def _unknown_head(model: PreTrainedModel) -> ModelError:
    return ModelError(
        f"the head of {type(model).__name__} is not a linear layer, an activation and a layer norm before the output "
        "projection, so it cannot be fitted.",
        fix="use a model that comes with its head",
    )


@dataclass(frozen=True)
class _Positions:
    """Masked positions: the body's hidden states (n, D), and the original tokens (n,)."""

    hidden: Tensor
    labels: Tensor

    @classmethod
    def joined(cls, parts: list[_Positions]) -> _Positions:
        return cls(torch.cat([part.hidden for part in parts]), torch.cat([part.labels for part in parts]))


@torch.no_grad()
def _hidden_states(
    base: BaseModel, head: _Head, micro_batches: Sequence[tuple[Tokens, Tensor]], progress: Progress | None
) -> tuple[_Positions, _Positions]:
    """The masked positions of all micro-batches, as (training, held out)."""
    training: list[_Positions] = []
    held_out: list[_Positions] = []
    seen: list[Tensor] = []
    handle = head.dense.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        for number, (batch, labels) in enumerate(micro_batches):
            rows = (labels != IGNORED).nonzero().squeeze(1)  # (n,)
            output = base.hidden(batch, rows)  # (n, E)
            hidden = seen.pop().reshape(-1, head.dense.in_features)  # (n, D), or (T, D)
            if len(hidden) != len(rows):  # the body passed all tokens of the row to the head
                hidden = hidden[rows]
            if number == 0 and not torch.allclose(head.output(hidden), output, atol=1e-4):
                raise _unknown_head(base.model)
            part = _Positions(hidden, labels[rows])
            (held_out if number % HELD_OUT == 0 else training).append(part)
            if progress:
                progress("fitting a masked-LM head (once, then cached): reading", number + 1, len(micro_batches))
    finally:
        handle.remove()
    if not training:
        raise ModelError("a head cannot be fitted on a single micro-batch of text.", fix="give more text")
    return _Positions.joined(training), _Positions.joined(held_out)


@dataclass(frozen=True)
class _Whitening:
    """u = (h - mean) matrix: uncorrelated entries of about unit variance. mean (D,), matrix (D, D), symmetric."""

    mean: Tensor
    matrix: Tensor

    @classmethod
    def of(cls, hidden: Tensor, *, centred: bool) -> _Whitening:
        """From hidden states (n, D). `centred` subtracts their mean, which requires a bias to fold the mean into."""
        mean = hidden.mean(0) if centred else torch.zeros_like(hidden[0])  # (D,)
        rest = (hidden - mean).double()  # (n, D)
        variances, directions = torch.linalg.eigh(rest.T @ rest / len(rest))  # (D,), (D, D)
        scales = (variances.clamp_min(0) + _WHITENING_FLOOR * variances.mean()).rsqrt()  # (D,)
        return cls(mean, ((directions * scales) @ directions.T).to(hidden.dtype))

    def __call__(self, hidden: Tensor) -> Tensor:
        """(n, D) -> (n, D)."""
        return (hidden - self.mean) @ self.matrix


@dataclass(frozen=True)
class _Fit:
    """A head on whitened hidden states: W (E, D), c, g and s (E,), b (V,); c, s and b may be None."""

    W: Tensor
    c: Tensor | None
    g: Tensor
    s: Tensor | None
    b: Tensor | None
    activation: Callable[[Tensor], Tensor]
    epsilon: float

    def output(self, whitened: Tensor) -> Tensor:
        """The input (n, E) of the output projection, from whitened hidden states (n, D)."""
        return F.layer_norm(
            self.activation(F.linear(whitened, self.W, self.c)), self.g.shape, self.g, self.s, self.epsilon
        )

    @torch.no_grad()
    def fold_into(self, head: _Head, whitening: _Whitening) -> None:
        """Write the fit into the model's modules, which read hidden states that are not whitened."""
        head.dense.weight.copy_(self.W @ whitening.matrix)
        head.norm.weight.copy_(self.g)
        for bias, value in ((head.dense.bias, self.c), (head.norm.bias, self.s), (head.projection.bias, self.b)):
            if bias is not None and value is not None:
                bias.copy_(value)
        if head.dense.bias is not None:
            head.dense.bias.sub_(head.dense.weight @ whitening.mean)


@torch.no_grad()
def _discriminant(whitened: Tensor, labels: Tensor, embeddings: Tensor, unigram: Tensor, head: _Head) -> _Fit:
    """Step 2 of the module's docstring: a head in closed form.

    Args:
        whitened: (n, D) hidden states.
        labels: (n,) tokens.
        embeddings: (V, E), rows of the output projection.
        unigram: (V,) log probability of each token.
    """
    size = embeddings.shape[1]
    mean = embeddings[labels].mean(0)  # (E,)
    centred = (embeddings[labels] - mean).double()  # (n, E)
    covariance = centred.T @ centred / len(labels)  # (E, E)
    ridge = _RIDGE * covariance.diagonal().mean() * torch.eye(size, dtype=torch.float64, device=covariance.device)
    R = torch.linalg.solve(covariance + ridge, centred.T @ whitened.double() / len(labels)).float() * _DISCRIMINANT
    scale = (whitened @ R.T).square().mean().sqrt()  # 0-d; R is (E, D)
    spread = torch.full((size,), _SPREAD, device=R.device)  # (E,)
    spread[1::2] = -_SPREAD
    return _Fit(
        W=R / scale,
        c=None if head.dense.bias is None else _SHIFT + spread,
        g=torch.full_like(spread, (1 + _SPREAD**2) ** 0.5) * scale,
        s=None if head.norm.bias is None else -spread * scale,
        b=None if head.bias is None else unigram - 0.5 * ((embeddings - mean) @ R).square().sum(1),
        activation=head.activation,
        epsilon=head.norm.eps,
    )


def _descend(
    fit: _Fit,
    whitened: Tensor,
    labels: Tensor,
    embeddings: Tensor,
    seed: int,
    epochs: int,
    progress: Progress | None,
) -> None:
    """Step 3: train `fit` in place on the exact loss over the tokens that occur in `labels`."""
    tokens, targets = labels.unique(return_inverse=True)  # (U,), (n,)
    columns = embeddings[tokens]  # (U, E)
    bias = None if fit.b is None else fit.b[tokens].requires_grad_()
    vectors = [p.requires_grad_() for p in (fit.c, fit.g, fit.s) if p is not None]
    matrix_rate = MATRIX_LEARNING_RATE * float(fit.W.square().mean().sqrt())
    optimizer = torch.optim.Adam(
        [
            {"params": [fit.W.requires_grad_()], "lr": matrix_rate},
            {"params": vectors if bias is None else [*vectors, bias], "lr": LEARNING_RATE},
        ],
        betas=(0.9, 0.99),
    )
    order = _order(len(labels), epochs, seed)
    steps = max(1, len(order))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARM_UP) * (1 - step / steps)
    )
    for step, positions in enumerate(order):
        output = fit.output(whitened[positions])  # (about BATCH, E)
        loss = linear_cross_entropy(output, columns, targets[positions], bias, reduction="mean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress:
            progress("fitting a masked-LM head (once, then cached): training", step + 1, steps)
    for parameter in (fit.W, *vectors):
        parameter.requires_grad_(False)
    if fit.b is not None and bias is not None:
        fit.b[tokens] = bias.detach()


def _order(positions: int, epochs: int, seed: int) -> list[Tensor]:
    """The positions of each step: a permutation per epoch, split into steps of about BATCH."""
    steps = max(1, positions // BATCH)
    order: list[Tensor] = []
    for epoch in range(epochs):
        order += torch.from_numpy(generator(seed, "warm head", epoch).permutation(positions)).tensor_split(steps)
    return order


@torch.no_grad()
def _loss(output: Tensor, embeddings: Tensor, bias: Tensor | None, labels: Tensor) -> float:
    """The mean loss in nats of the outputs (n, E), over the whole vocabulary."""
    return float(linear_cross_entropy(output, embeddings, labels, bias, reduction="mean"))
