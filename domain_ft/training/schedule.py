"""Learning-rate schedules as pure functions of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

WSD_DECAY_SHARE = 0.2
"""Share of the steps over which `wsd` decays (Hu et al. 2024, MiniCPM: about a tenth to a fifth)."""


def learning_rate_factor(schedule: str, step: int, total_steps: int, warmup: float) -> float:
    """The factor on the peak learning rate at `step`, in (0, 1].

    It is never 0, so that no step is wasted: warm-up starts above 0, and decay reaches 0 only after the last step.

    Args:
        schedule: `constant`, `linear`, `cosine`, or `wsd` (warm-up, stable, decay).
        step: 0-based index of the optimiser step.
        total_steps: steps in the whole run.
        warmup: share of the steps over which the rate rises linearly.
    """
    warmup_steps = round(warmup * total_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    if schedule == "wsd":
        decay_steps = max(1, round(WSD_DECAY_SHARE * total_steps))
        return min(1.0, (total_steps - step) / decay_steps)
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    raise ValueError(f"schedule is {schedule!r}; expected constant, linear, cosine or wsd")
