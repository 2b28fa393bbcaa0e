"""Files of the stack's folder that only their owner can read: secrets that are made once, and what `poorwill` reads."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from deployments.stack.settings import StackSettings

STACK, TOKENS, AUTH, WEBHOOK_SECRET = "stack.json", "api-tokens", "prefect-auth", "webhook-secret"
S3_KEYS = "s3-keys.json"
"""The last that `purge` removes: it marks the folder of a stack."""


def make_secrets(settings: StackSettings) -> None:
    """The gateway's token, the secret of webhooks, the keys of the store: each is made once. OSError."""
    settings.stack_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = {
        settings.token_file: f"operator:{secrets.token_urlsafe(32)}\n",
        settings.stack_dir / WEBHOOK_SECRET: f"{secrets.token_urlsafe(32)}\n",
        settings.stack_dir / S3_KEYS: json.dumps([secrets.token_hex(16), secrets.token_hex(32)]),
    }
    for path, text in made.items():
        if not path.exists():
            _write(path, text)


def s3_keys(folder: Path) -> tuple[str, str]:
    """Access key and secret key of the stack's own store; empty before they were made."""
    try:
        access_key, secret_key = json.loads((folder / S3_KEYS).read_text())
    except FileNotFoundError:
        return "", ""
    return str(access_key), str(secret_key)


def write_stack_file(settings: StackSettings) -> None:
    """Where everything is and what it takes to be let in, for the program `poorwill`. OSError."""
    auth_file = settings.stack_dir / AUTH
    if settings.auth:
        _write(auth_file, settings.auth)
    else:
        auth_file.unlink(missing_ok=True)
    addresses = {
        "api_url": settings.api_url,
        "ui_url": f"http://{settings.address('prefect')}",
        "gateway_url": f"http://{settings.address('api')}",
        "token_file": str(settings.token_file),
        "auth_string_file": str(auth_file) if settings.auth else "",
    }
    _write(settings.stack_dir / STACK, json.dumps(addresses, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    """Whole, or as it was before."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)
