"""Objectives: each turns a batch of tokens into a sum of losses and a number of items. None of them opens a file."""
