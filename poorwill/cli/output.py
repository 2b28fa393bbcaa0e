"""What the program prints: lines and bars for people, JSON lines for programs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from poorwill.errors import PoorwillError
from poorwill.snapshot.sizes import human

EVENT_EVERY_S = 1.0
SHOWN_MAX = 20
LEFT_OUT = 3
"""Exit code of a command that is done, but for paths that it lists."""


class Progress(Protocol):
    """A running step."""

    def entries(self, count: int) -> None: ...

    def bytes(self, done: int, coded: int) -> None: ...


class Output:
    """Everything the program says. Results go to stdout, progress and errors to stderr."""

    def __init__(self, json_lines: bool) -> None:
        self._json = json_lines
        self.hint = ""
        self.lost = ""
        """Why stdout could not be written; what is being done goes on all the same."""

    def _say(self, text: str) -> None:
        try:
            if not self.lost:
                print(text, flush=True)
        except OSError as error:
            self.lost = str(error.strerror)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the rest of the buffer fails again at exit

    def event(self, event: str, **fields: Any) -> None:
        """One JSON line, for programs only."""
        if self._json:
            self._say(json.dumps({"event": event, **fields}))

    @contextmanager
    def progress(self, what: str, total: int = 0) -> Iterator[Progress]:
        """Show the progress of a step for as long as it runs."""
        if not self._json and sys.stderr.isatty():
            from poorwill.cli.transfer_bar import bar  # rich takes a tenth of a second to import

            with bar(what, total) as shown:
                yield shown
        else:
            yield _Events(self, what, total)

    def left_out(self, shown: list[dict[str, str]], count: int) -> None:
        for left in shown[:SHOWN_MAX] if not self._json else []:
            print(f"left out: {left['path']}: {left['reason']}", file=sys.stderr)
        if count > SHOWN_MAX and not self._json:
            print(f"left out: {count - SHOWN_MAX} more", file=sys.stderr)

    def warnings(self, warnings: Iterable[str]) -> None:
        """Lines for people; a program finds them among the fields of an event."""
        for warning in warnings if not self._json else ():
            print(f"poorwill: {warning}", file=sys.stderr)

    def table(self, rows: list[dict[str, Any]]) -> None:
        if self._json or not rows:
            return
        self._say(f"{'SNAPSHOT':26} {'MACHINE':20} {'FILES':>9} {'SIZE':>11} {'STORED':>11} {'SENT':>11}")
        for row in rows:
            sizes = " ".join(f"{human(row[k]):>11}" for k in ("raw_bytes", "stored_bytes", "sent_bytes"))
            labels = " ".join(filter(None, (row.get("name"), *(f"[{tag}]" for tag in row.get("tags", ())))))
            self._say(f"{row['snapshot_id']:26} {row['machine']:20} {row['files']:>9} {sizes}  {labels}".rstrip())

    def lines(self, lines: Iterable[str]) -> None:
        """Lines of a result, for people only."""
        for line in lines if not self._json else ():
            self._say(line)

    def document(self, document: Mapping[str, Any]) -> None:
        if self._json:
            self._say(json.dumps({**document, "event": "done"}))
        else:
            self._say(json.dumps(document, indent=2))

    def done(self, message: str, totals: Mapping[str, int], *, quiet: bool = False, **fields: Any) -> None:
        """The last line: what was done, and the totals."""
        if self._json:
            self._say(json.dumps({**fields, **totals, "totals": dict(totals), "event": "done"}))
        elif not quiet:
            self._say(message + _figures(totals))

    def failed(self, error: PoorwillError) -> None:
        self.event("error", exit_code=error.exit_code, **error.to_wire(), hint=self.hint)
        if not self._json:
            print("\n".join(f"poorwill: {line}" for line in (error.message, self.hint) if line), file=sys.stderr)

    def interrupted(self) -> None:
        self.event("error", exit_code=130, type="Interrupted", message="interrupted", hint=self.hint)
        if not self._json:
            print("poorwill: interrupted" + (f"; {self.hint}" if self.hint else ""), file=sys.stderr)


def _figures(totals: Mapping[str, int]) -> str:
    raw, stored = totals.get("raw_bytes", 0), totals.get("stored_bytes", 0)
    words = [f"{human(raw)} raw"] if raw else []
    if stored:
        words.append(f"{human(stored)} stored, ratio {raw / stored:.3f}")
    if "sent_bytes" in totals:
        words.append(f"{human(totals['sent_bytes'])} sent")
    return f": {', '.join(words)}" if words else ""


class _Events:
    """Progress as JSON lines, at most one a second; nothing for people without a terminal."""

    def __init__(self, output: Output, what: str, total: int) -> None:
        self._output, self._what, self._total = output, what, total
        self._began_s = self._last_s = time.monotonic()

    def entries(self, count: int) -> None:
        self._event(entries=count)

    def bytes(self, done: int, coded: int) -> None:
        rate = done / max(time.monotonic() - self._began_s, 1e-9)
        left = max(self._total - done, 0)
        self._event(done_bytes=done, coded_bytes=coded, total_bytes=self._total,
                   bytes_per_s=round(rate), eta_s=round(left / rate, 1) if rate else None)  # fmt: skip

    def _event(self, **fields: Any) -> None:
        now = time.monotonic()
        if now - self._last_s >= EVENT_EVERY_S:
            self._last_s = now
            self._output.event("progress", step=self._what, **fields)
