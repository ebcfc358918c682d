"""Fixtures that several files share."""

from lab import lab, labs

__all__ = ["lab", "labs"]
