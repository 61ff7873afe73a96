"""Kept because the model cards of version 0.1 import `resolve` from here."""

from domain_ft.embedded.making import resolve

__all__ = ["resolve"]
