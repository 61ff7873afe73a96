"""What is wrong with a file, found in one pass: its records, its text, its copies, and what is private in it.

a file (`opening`) -> its records (`items`, `conversations`) -> `checking`, which hands each text to `encoding`,
`languages`, `private` and `endings`, and each record to `copies` and `lengths` -> findings with their lines.
`repairs` writes a cleaned copy.
"""
