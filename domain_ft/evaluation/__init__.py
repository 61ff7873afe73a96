"""Evaluation: losses on held-out text, scores of tasks and answers, their intervals, and sample outputs."""
