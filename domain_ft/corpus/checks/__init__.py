"""What is wrong with a file, found in one pass: its records, its text, its copies, and what is private in it.

records (`sources`) -> `checking`, which hands each text to `encoding`, `languages`, `private` and each record to `copies`,
`endings`, `lengths` -> findings with their lines. `repairs` writes a cleaned copy.
"""
