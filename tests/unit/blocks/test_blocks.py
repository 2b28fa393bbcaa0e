"""Blocks as Prefect sees them."""

from __future__ import annotations

import httpx
import pytest
from prefect.blocks.core import Block

import blocks
from blocks.lookup import patiently


@pytest.mark.parametrize(
    "kind",
    [blocks.Machine, blocks.VastProvider, blocks.Ec2Provider, blocks.OwnMachines, blocks.Media, blocks.VideoModel],
)
def test_a_remembered_schema_is_the_right_one(kind: type[Block]) -> None:
    """It equals one that is computed anew, and a caller's changes stay with the caller."""
    anew = Block.model_json_schema.__func__(kind)  # type: ignore[attr-defined]
    kind.model_json_schema()["properties"].clear()
    assert kind.model_json_schema() == anew


def test_blocks_do_not_print_secrets() -> None:
    """Neither keys of providers nor private keys."""
    vast = blocks.VastProvider(api_key="hush-1", ssh_key="hush-2", ssh_passphrase="hush-3")
    machine = blocks.Machine(provider=vast, ssh_key="hush-4")
    assert "hush" not in f"{vast} {vast!r} {machine} {machine!r} {machine.identity()!r}"


def test_a_server_that_is_restarted_does_not_fail_a_run() -> None:
    """Blocks are loaded again while the server is away; an answer of the server is final, and patience ends."""
    block = blocks.LocalStore(directory="/d")
    answers: list[BaseException | Block] = [httpx.ConnectError("refused"), httpx.ReadError("reset"), block]

    def load() -> Block:
        found = answers.pop(0)
        if isinstance(found, BaseException):
            raise found
        return found

    assert patiently(load, retry_s=0.001) is block and answers == []
    answers = [ValueError("no such block"), block]
    with pytest.raises(ValueError, match="no such block"):
        patiently(load, retry_s=0.001)
    answers = [httpx.ConnectError("refused")] * 1000
    with pytest.raises(httpx.ConnectError):
        patiently(load, patience_s=0.02, retry_s=0.001)
