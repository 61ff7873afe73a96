"""Checks a file in one pass: its records, encoding, languages, copies, lengths, and private data.

a file (`opening`) -> its records (`items`, `conversations`) -> `checking`, which passes each text to `encoding`,
`languages`, `private` and `endings`, and each record to `copies` and `lengths` -> findings with line numbers.
`repairs` writes a cleaned copy.
"""
