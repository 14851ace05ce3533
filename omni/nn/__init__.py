"""Neural building blocks, decoding and language-model tables that several parts share."""
