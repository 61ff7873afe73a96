"""Conversations: examples of what is asked and answered, from files in the usual formats to rows of tokens.

files -> `formats` and `messages` (a record becomes a Conversation) -> `reading` (splits) -> `rendering` (text, and what
of it is learned) -> `rows` (tokens)
"""
