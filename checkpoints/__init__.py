"""Checkpoint folders, installed as omni.weights: data only."""
