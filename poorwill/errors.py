"""Every error Poorwill raises on purpose.

PoorwillError                  what a user can be shown: one line, no secret, what to do
├── TransientError             trying again may help; the only kind that is retried
│   ├── StoreUnavailable       the store did not answer, or answered 5xx / slow down
│   ├── GrantExpired           a presigned URL was too old: ask for a new one
│   ├── UploadLost             the store forgot an unfinished upload: begin the part anew
│   ├── EngineLost             the engine's process or channel ended, or its machine does not answer
│   ├── ProviderUnavailable    a provider of machines did not answer, or answered 5xx / slow down
│   ├── SourceUnavailable      the server of an image or of weights did not answer, or answered 5xx / slow down
│   ├── ServerUnavailable      the Prefect server did not answer, or answered 5xx / slow down
│   └── DeadlineExceeded       a step did not end in its time
└── PermanentError             trying again gives the same answer
    ├── UsageError             the call itself is wrong
    ├── StoreRefused           credentials, permission or bucket are wrong
    ├── ProviderRefused        the provider says no: credentials, credit, quota, an invalid request
    ├── ServerRefused          the Prefect server says no: its password, its address
    ├── HostRefused            a machine is not who it was (its host key), or does not let us in
    ├── HostUnfit              a machine lacks what the engine needs: Python, disk, a C library
    ├── NotFound               a snapshot or object that is not there
    ├── Refused                it would overwrite or lose something, so it was not done
    ├── Corrupt                bytes are not what was written: hash, size or structure differ
    ├── Unsupported            a format version, codec or need that this reader does not have
    ├── WorkspaceError         files that cannot be read, keep changing, or do not fit
    ├── OutOfMemory            the GPU or host memory does not suffice for what was asked
    ├── DeviceFailed           the GPU failed; the process has to be replaced
    ├── EngineFailed           the engine answered with an error that has no better name
    ├── RunFailed              a flow run failed or crashed for a reason that has no better name
    └── Cancelled              somebody asked for the step to stop

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


class StoreUnavailable(TransientError):
    exit_code = 7


class GrantExpired(TransientError):
    exit_code = 7


class UploadLost(TransientError):
    exit_code = 7


class EngineLost(TransientError):
    pass


class ProviderUnavailable(TransientError):
    exit_code = 7


class SourceUnavailable(TransientError):
    exit_code = 7


class ServerUnavailable(TransientError):
    exit_code = 7


class DeadlineExceeded(TransientError):
    pass


class PermanentError(PoorwillError):
    """Trying again gives the same answer."""


class UsageError(PermanentError):
    exit_code = 2


class StoreRefused(PermanentError):
    exit_code = 7


class ProviderRefused(PermanentError):
    exit_code = 7


class ServerRefused(PermanentError):
    exit_code = 7


class HostRefused(PermanentError):
    exit_code = 6


class HostUnfit(PermanentError):
    pass


class NotFound(PermanentError):
    exit_code = 5


class Refused(PermanentError):
    exit_code = 6


class Corrupt(PermanentError):
    exit_code = 4


class Unsupported(PermanentError):
    exit_code = 4


class WorkspaceError(PermanentError):
    pass


class OutOfMemory(PermanentError):
    pass


class DeviceFailed(PermanentError):
    pass


class EngineFailed(PermanentError):
    pass


class RunFailed(PermanentError):
    pass


class Cancelled(PermanentError):
    exit_code = 130


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
