"""Codecs: one a file; registry.py knows their ids, sampler.py chooses."""
