"""Omni hears what you say and how you say it, and answers in words and in a voice that fit."""

__version__ = "0.1.0"

import warnings

warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)  # pyworld asks it for its own version
