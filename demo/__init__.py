"""The web demo, installed as omni.demo."""
