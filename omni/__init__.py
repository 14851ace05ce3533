"""Omni hears what you say and how you say it, and answers in words and in a voice that fit."""

__version__ = "0.1.0"
