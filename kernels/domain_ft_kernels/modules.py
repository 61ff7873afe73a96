"""The losses as modules: one for logits, like torch.nn.CrossEntropyLoss, and one for the inputs of a linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from domain_ft_kernels.cross_entropy import cross_entropy
from domain_ft_kernels.linear_cross_entropy import linear_cross_entropy


class _Loss(nn.Module):
    """The options of both losses. `reduction` is `mean` by default as in torch, not `sum` as in the functions."""

    class_weight: Tensor | None

    def __init__(
        self,
        class_weight: Tensor | None,
        ignore_index: int,
        label_smoothing: float,
        z_loss: float,
        softcap: float | None,
        reduction: str,
        backend: str,
    ) -> None:
        super().__init__()
        self.register_buffer("class_weight", class_weight)
        self.ignore_index, self.label_smoothing, self.z_loss = ignore_index, label_smoothing, z_loss
        self.softcap, self.reduction, self.backend = softcap, reduction, backend


class CrossEntropyLoss(_Loss):
    """`cross_entropy` as a module; `weight` is kept as the buffer `class_weight`."""

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        softcap: float | None = None,
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__(weight, ignore_index, label_smoothing, z_loss, softcap, reduction, backend)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (..., V) against target (...)."""
        return cross_entropy(
            logits,
            target,
            weight=self.class_weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            softcap=self.softcap,
            reduction=self.reduction,
            backend=self.backend,
        )


class LinearCrossEntropyLoss(_Loss):
    """`linear_cross_entropy` as a module. The head's weight and bias are not part of it: each call gets them."""

    def __init__(
        self,
        class_weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        softcap: float | None = None,
        reduction: str = "mean",
        filter_eps: float | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(class_weight, ignore_index, label_smoothing, z_loss, softcap, reduction, backend)
        self.filter_eps = filter_eps

    def forward(self, hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None) -> Tensor:
        """The loss of hidden (..., D) against target (...), for a head with `weight` (V, D) and `bias` (V,)."""
        return linear_cross_entropy(
            hidden,
            weight,
            target,
            bias,
            class_weight=self.class_weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            softcap=self.softcap,
            reduction=self.reduction,
            filter_eps=self.filter_eps,
            backend=self.backend,
        )
