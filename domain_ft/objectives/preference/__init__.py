"""Preference losses: each file has one equation with its source. `paired` and `kto` apply them to micro-batches.

Notation: x is a prompt, y_w and y_l its better and its worse answer, log π(y|x) the sum of the log-probabilities of the
tokens of y, with the token that ends its turn, |y| their number, and π_ref the reference: the model before training.

    r(y) = log π(y|x) - log π_ref(y|x)          the log-ratio of an answer
    Δ    = r(y_w) - r(y_l)                      the margin of a pair
"""
