"""Texts with entities: read from the files of annotation tools, checked, split, and tokenised into rows."""
