"""A conversation as it happens: who speaks when, what is played, what is cut short."""
