"""Snapshots taken, restored, converted and verified through an engine, and committed to a store."""
