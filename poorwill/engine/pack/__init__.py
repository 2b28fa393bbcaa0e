"""A workspace becomes a snapshot: scan, compare, plan, code, send."""
