"""Which keys and prefixes every store accepts, so that a snapshot can move from any store to any other.

The limits are those of the narrowest store: S3 keys end at 1,024 bytes of UTF-8 with the store's own
prefix, a file name at 255 bytes on common filesystems.
"""

from __future__ import annotations

from poorwill.errors import UsageError

KEY_BYTES_MAX = 800
COMPONENT_BYTES_MAX = 240
RESERVED_COMPONENT = ".uploads"  # the folder that LocalStore keeps beside its objects


def key_fault(key: str) -> str | None:
    """Why a key is not accepted, or None."""
    if not key:
        return "it is empty"
    try:
        size = len(key.encode("utf-8"))
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if size > KEY_BYTES_MAX:
        return f"it has {size} bytes of UTF-8, at most {KEY_BYTES_MAX} are possible"
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in key):
        return "it holds a control character"
    components = key.split("/")
    if components[0] == RESERVED_COMPONENT:
        return f"{RESERVED_COMPONENT!r} is reserved"
    for component in components:
        if component in ("", ".", ".."):
            return f"it has the component {component!r}"
        if len(component.encode("utf-8")) > COMPONENT_BYTES_MAX:
            return f"a component has more than {COMPONENT_BYTES_MAX} bytes"
    return None


def checked_key(key: str) -> str:
    """The key, or UsageError."""
    fault = key_fault(key)
    if fault is not None:
        raise UsageError(f"not an object key: {key[:120]!a}: {fault}")
    return key


def checked_prefix(prefix: str) -> str:
    """A prefix to list: empty, or the beginning of a key. UsageError for any other."""
    folder, slash, start = prefix.rpartition("/")
    fault = key_fault(folder) if slash else None
    if fault is None and start not in ("", ".", ".."):
        fault = key_fault(start)
    if fault is not None:
        raise UsageError(f"not a prefix of object keys: {prefix[:120]!a}: {fault}")
    return prefix


def checked_store_prefix(prefix: str) -> str:
    """The prefix of a whole store, without slashes at its ends. UsageError."""
    stripped = prefix.strip("/")
    fault = key_fault(stripped) if stripped else None
    if fault is None and len(stripped.encode("utf-8")) > 1023 - KEY_BYTES_MAX:
        fault = f"it has more than {1023 - KEY_BYTES_MAX} bytes"
    if fault is not None:
        raise UsageError(f"not a store prefix: {prefix[:120]!a}: {fault}")
    return stripped
