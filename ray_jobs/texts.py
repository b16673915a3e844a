"""Texts from JSON as a table takes them."""

from __future__ import annotations


def storable(text: str) -> str:
    """With a question mark for each half character (`"\\ud800"`), which JSON lets through and UTF-8 does not."""
    return text.encode(errors="replace").decode()
