"""Automations on a Prefect server, as the files of this folder describe them."""
