"""Poorwill beside the tools people use today, on the same files in the same call."""
