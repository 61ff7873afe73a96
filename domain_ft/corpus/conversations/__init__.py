"""Conversations: prompts with answers, from files in the usual formats to rows of tokens.

files -> `formats` and `messages` (a record becomes a Conversation) -> `reading` (splits) -> `rendering` (text, and the
characters of it to train on) -> `rows` (tokens)
"""
