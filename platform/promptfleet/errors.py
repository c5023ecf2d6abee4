"""The mistakes a user can make. Each ends in one line on stderr and exit status 2."""


class PromptfleetError(Exception):
    """Root of everything promptfleet raises on purpose; its text is meant for the user as it is."""


class ConfigError(PromptfleetError):
    """A configuration, search space or command line that cannot be run as written."""


class DataError(PromptfleetError):
    """A dataset, partition or feature store that is missing, damaged or impossible."""


class BackboneError(PromptfleetError):
    """A CLIP that cannot be loaded, or that the prompt encoder does not support."""


class ResourceError(PromptfleetError):
    """A federation that does not fit the machine or the cluster."""
