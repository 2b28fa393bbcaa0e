"""A codec that not every CPU decodes, for tests of what is done about that: zlib under the number of one for GPUs."""

from __future__ import annotations

import struct
import zlib

from poorwill.codecs import registry
from poorwill.codecs.base import Codec
from poorwill.codecs.chooser import Chooser, estimate
from poorwill.codecs.planes import Planes
from poorwill.codecs.toolset import Toolset
from poorwill.errors import Corrupt

_HEAD = struct.Struct("<4sI")
_MAGIC = b"need"


class Needing:
    """Stands in for `nvcomp-ans/6`, and decodes nothing of it."""

    id = registry.NVCOMP_ANS
    name = registry.name(id)

    def encode(self, raw: memoryview, out: memoryview) -> int | None:
        coded = _HEAD.pack(_MAGIC, len(raw)) + zlib.compress(raw, 1)
        if len(coded) > len(out):
            return None
        out[: len(coded)] = coded
        return len(coded)

    def decode(self, stored: memoryview, out: memoryview) -> None:
        if len(stored) < _HEAD.size or _HEAD.unpack_from(stored) != (_MAGIC, len(out)):
            raise Corrupt("needing: its header does not fit")
        try:
            out[:] = zlib.decompress(stored[_HEAD.size :])
        except (zlib.error, ValueError) as error:
            raise Corrupt(f"needing: {error}") from None


class NeedingChooser(Chooser):
    """Codes with `Needing` what others code with `openzl`; or, mixed, one third with each of that and `planes`."""

    def __init__(self, *, mixed: bool) -> None:
        super().__init__("ans")
        self._mixed = mixed

    def encode(self, raw: memoryview, out: memoryview) -> tuple[int, int]:
        codec, size = super().encode(raw, out)
        which = zlib.crc32(raw) % 3 if self._mixed else 2
        if codec != 3 or which == 0:
            return codec, size
        other: Codec = Needing()
        if which == 1:
            other = planes = Planes()
            planes.layout = estimate(raw).layout
        coded = other.encode(raw, out)
        assert coded is not None
        return other.id, coded


class NeedingToolset(Toolset):
    """What a machine codes with that has what `Needing` needs. mixed: its snapshots hold every codec there is."""

    def __init__(self, *, mixed: bool = False) -> None:
        super().__init__()
        self._mixed = mixed

    def codec(self, number: int) -> Codec:
        return Needing() if number == Needing.id else super().codec(number)

    def chooser(self, policy: str, *, portable: bool = False) -> Chooser:
        return super().chooser(policy, portable=True) if portable else NeedingChooser(mixed=self._mixed)
