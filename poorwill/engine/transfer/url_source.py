"""A part behind a presigned URL, read by ranges."""

from __future__ import annotations

from collections.abc import Callable

from poorwill.engine.meter import Meter
from poorwill.engine.protocol.context import Context
from poorwill.engine.transfer.http import Http


class UrlSource:
    """An object behind a presigned URL; url_of(fresh) gives it, anew when the last one was refused."""

    remote = True

    def __init__(self, url_of: Callable[[bool], str], what: str, http: Http, meter: Meter, context: Context) -> None:
        self._url_of, self._what, self._http, self._meter, self._context = url_of, what, http, meter, context

    def read(self, start: int, into: memoryview) -> None:
        self._http.get(self._url_of, start, into, self._what, self._context)
        self._meter.add(fetched_bytes=len(into))

    def close(self) -> None:
        pass
