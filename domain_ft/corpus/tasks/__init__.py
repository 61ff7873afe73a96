"""Downstream tasks: labelled examples in files, recipes and hubs; their splits, leaks, and rows of tokens."""
