"""domain-ft: adapt a small language model to a field, and measure what it gained and what it forgot."""

__version__ = "0.1.0"
