"""Failures, told apart by type: what stops a run, what is tried again, what costs one document."""


class El4nerError(Exception):
    """Base of all errors that this package raises on purpose."""


class UsageError(El4nerError):
    """Wrong use: the message names the field, file or line and the mend. Exit status 2, before any model loads."""


class FatalError(El4nerError):
    """The run cannot go on (a model does not load, the disk is full). Exit status 1; what is committed stays valid."""


class RetryableError(El4nerError):
    """A passing fault of an engine (replica died, deadline missed): the same call may succeed later."""
