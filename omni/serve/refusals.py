"""Which refusal an error becomes."""

from __future__ import annotations

from omni.errors import InputError, ModelError, UsageError
from omni.serve.limits import Refusal
from omni.talking.worker import BusyError


def as_refusal(error: Exception) -> Refusal:
    """Any error as what a client is told."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, BusyError):
        return Refusal(503, "busy", str(error), retry_s=5)
    if isinstance(error, InputError):
        return Refusal(400, "invalid_audio", str(error))
    if isinstance(error, UsageError):
        return Refusal(400, "invalid_request", str(error))
    if isinstance(error, ModelError):
        return Refusal(500, "model_error", str(error))
    return Refusal(500, "internal_error", f"the reply failed with {type(error).__name__}")
