"""The project's own lints: run by `make lint`, beside ruff, mypy and import-linter."""
