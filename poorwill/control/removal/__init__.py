"""Snapshots removed: by policy, by hand, and their objects once nothing needs them."""
