"""Evaluation: what a model's loss is on held-out text, how sure that is, and what the model says."""
