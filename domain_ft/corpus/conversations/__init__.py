"""Conversations: prompts with answers, from files in the usual formats to rows of tokens.

files -> `formats` and `messages` (a record becomes a Conversation) -> `reading` (splits) -> `rendering` (the text, and
which of its characters to train on) -> `rows` (tokens)
"""
