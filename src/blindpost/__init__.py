"""Blindpost: a zero-knowledge router for end-to-end encrypted messengers."""

__version__ = "0.1.0"
