"""Every error Poorwill raises on purpose.

A PoorwillError is what a user can be shown: one line, no secret, what to do. Its two halves are TransientError (trying
again may help; the only kind that is retried) and PermanentError (trying again gives the same answer).

The exit codes are those of the design page: 1 failed, 2 usage, 4 corrupt or unverifiable, 5 not
found, 6 refused, 7 store, provider or network, 130 interrupted.
"""

from __future__ import annotations

import re
from typing import Any

_SECRET_IN_URL = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def masked(text: str) -> str:
    """`text` with the query of every URL cut off: a presigned URL's query is a credential."""
    return _SECRET_IN_URL.sub(r"\1?***", text)


def one_line(text: str) -> str:
    """`text` with control characters as `\\xNN`: names of files, and what a store answers, may hold anything."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class PoorwillError(Exception):
    """Base of all. `message` is one line for a person; `facts` are the same things for a program."""

    exit_code = 1

    def __init_subclass__(cls, exit_code: int | None = None) -> None:
        if exit_code is not None:
            cls.exit_code = exit_code

    def __init__(self, message: str, **facts: Any) -> None:
        self.message = one_line(masked(message))
        self.facts = {k: masked(v) if isinstance(v, str) else v for k, v in facts.items()}
        super().__init__(self.message)

    def to_wire(self) -> dict[str, Any]:
        """The error as a JSON object; `from_wire` gives it back with the same type."""
        return {"type": type(self).__name__, "message": self.message, "facts": self.facts}

    def __reduce__(self) -> Any:
        return (from_wire, (self.to_wire(),))


class TransientError(PoorwillError):
    """Trying again may help."""


class StoreUnavailable(TransientError, exit_code=7):
    """The store did not answer, or answered 5xx / slow down."""


class GrantExpired(TransientError, exit_code=7):
    """A presigned URL was too old: ask for a new one."""


class UploadLost(TransientError, exit_code=7):
    """The store forgot an unfinished upload: begin the part anew."""


class EngineLost(TransientError):
    """The engine's process or channel ended, or its machine does not answer."""


class ProviderUnavailable(TransientError, exit_code=7):
    """A provider of machines did not answer, or answered 5xx / slow down."""


class SourceUnavailable(TransientError, exit_code=7):
    """The server of an image or of weights did not answer, or answered 5xx / slow down."""


class ServerUnavailable(TransientError, exit_code=7):
    """The Prefect server did not answer, or answered 5xx / slow down."""


class DeadlineExceeded(TransientError):
    """A step did not end in its time."""


class PermanentError(PoorwillError):
    """Trying again gives the same answer."""


class UsageError(PermanentError, exit_code=2):
    """The call itself is wrong."""


class StoreRefused(PermanentError, exit_code=7):
    """Credentials, permission or bucket are wrong."""


class ProviderRefused(PermanentError, exit_code=7):
    """The provider says no: credentials, credit, quota, an invalid request."""


class ServerRefused(PermanentError, exit_code=7):
    """The Prefect server says no: its password, its address."""


class HostRefused(PermanentError, exit_code=6):
    """A machine is not who it was (its host key), or does not let us in."""


class HostUnfit(PermanentError):
    """A machine lacks what the engine needs: Python, disk, a C library."""


class NotFound(PermanentError, exit_code=5):
    """A snapshot or object that is not there."""


class Refused(PermanentError, exit_code=6):
    """It would overwrite or lose something, so it was not done."""


class Corrupt(PermanentError, exit_code=4):
    """Bytes are not what was written: hash, size or structure differ."""


class Unsupported(PermanentError, exit_code=4):
    """A format version, codec or need that this reader does not have, or an archive that the store does not open."""


class WorkspaceError(PermanentError):
    """Files that cannot be read, keep changing, or do not fit."""


class OutOfMemory(PermanentError):
    """The GPU or host memory does not suffice for what was asked."""


class DeviceFailed(PermanentError):
    """The GPU failed; the process has to be replaced."""


class EngineFailed(PermanentError):
    """The engine answered with an error that has no better name."""


class RunFailed(PermanentError):
    """A flow run failed or crashed for a reason that has no better name."""


class Cancelled(PermanentError, exit_code=130):
    """Somebody asked for the step to stop."""


def _tree(root: type[PoorwillError]) -> dict[str, type[PoorwillError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def error_type(name: str) -> type[PoorwillError] | None:
    """The type of that name; None for names outside this tree."""
    return _tree(PoorwillError).get(name)


def from_wire(wire: dict[str, Any]) -> PoorwillError:
    """The error that `to_wire` described; a type unknown here becomes EngineFailed."""
    kind = error_type(str(wire.get("type"))) or EngineFailed
    facts = wire.get("facts")
    given = {k: v for k, v in facts.items() if k not in ("self", "message")} if isinstance(facts, dict) else {}
    return kind(str(wire.get("message", "no message")), **given)
