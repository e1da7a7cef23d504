"""How commands end early; apart from what loads torch, so that ``--help`` takes no time."""

__all__ = ["BadRunError", "FailedError"]


class BadRunError(ValueError):
    """What was given is no run that can be read."""


class FailedError(Exception):
    """Code of the user's that a command runs has failed."""
