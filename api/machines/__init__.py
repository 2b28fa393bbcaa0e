"""Machines as clients name them: their blocks, their addresses, and what they cost."""
