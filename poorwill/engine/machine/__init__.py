"""The engine's machine: its facts, how it is used, and an operator's command on it."""
