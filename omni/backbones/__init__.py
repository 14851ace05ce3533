"""The same parts as in `omni/models`, over published models in the transformers library."""
