"""Corpora, manifests, synthetic voices and examples: where training data comes from."""
