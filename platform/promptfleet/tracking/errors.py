"""Errors of a tracking store."""

from promptfleet.errors import PromptfleetError


class TrackingError(PromptfleetError):
    """An MLflow store, or a run in it, that cannot be used as requested."""
