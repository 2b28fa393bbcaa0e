"""Codecs: one a file; registry.py knows their ids, chooser.py chooses."""
