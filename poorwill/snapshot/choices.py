"""Parameters whose value is one of several words; apart from the orders, so that a parser need not load those."""

from __future__ import annotations

from typing import Literal, get_args

Codec = Literal["auto", "ans", "planes", "zstd", "raw"]
VerifyMode = Literal["stored", "full", "sample"]
OnUnreadable = Literal["fail", "skip"]
Writers = Literal["refuse", "stop", "ignore"]
CODECS: tuple[Codec, ...] = get_args(Codec)
VERIFY_MODES: tuple[VerifyMode, ...] = get_args(VerifyMode)
ON_UNREADABLE: tuple[OnUnreadable, ...] = get_args(OnUnreadable)
WRITERS: tuple[Writers, ...] = get_args(Writers)
