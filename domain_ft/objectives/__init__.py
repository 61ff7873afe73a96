"""Objectives: each turns a batch of tokens into (sum of losses, number of items). None of them opens a file."""
