"""What can go wrong that the user can put right; each kind knows the exit code it becomes (docs/cli.md)."""

from __future__ import annotations


class AdaFlowError(Exception):
    """Base of every error whose message is one sentence for the user: what is wrong, and what to do."""

    exit_code = 2


class InputError(AdaFlowError):
    """The video, the prompt or the place of the output is not usable."""


class ConfigError(InputError):
    """A setting has a name or a value that is not allowed."""


class WorkspaceError(InputError):
    """A workspace belongs to another video, is in use, or was written by an incompatible version."""


class MissingError(AdaFlowError):
    """A model or an optional package is not here; the message gives the command that brings it."""

    exit_code = 3


class ResourceError(AdaFlowError):
    """Memory or disk will not suffice, or ran out; the workspace is kept and the same command resumes."""

    exit_code = 4


class Cancelled(AdaFlowError):  # noqa: N818 (a wish, not an error)
    """The run was stopped on purpose; the same command resumes it."""

    exit_code = 130
