"""Errors for people: what was wrong, what is allowed, how to mend it; each class has a documented exit code."""


class OmniError(ValueError):
    """Base of every error that a person can mend. `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(OmniError):
    """An option or argument that does not exist or does not fit."""

    exit_code = 2


class InputError(OmniError):
    """A query that cannot be heard: missing, empty, not sound, too short, too long, silent, not finite."""

    exit_code = 3


class OutputError(OmniError):
    """A place that cannot be written: read-only, full, or already taken."""

    exit_code = 4


class ModelError(OmniError):
    """Weights, configuration or a package that is missing, corrupt or does not match."""

    exit_code = 5


class ConfigError(ModelError):
    """A YAML file with an unknown key, a wrong type or a value out of range."""


class DataError(OmniError):
    """A corpus or manifest that is missing or malformed."""

    exit_code = 6
