"""Signals to random processes at random moments, and a look at what is left: `python -m tests.chaos`."""
