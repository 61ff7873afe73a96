"""Where `resolve` was in version 0.1: model cards of that version import it from here."""

from domain_ft.embedded.making import resolve

__all__ = ["resolve"]
