"""Poorwill puts GPU machines to sleep and wakes them anywhere.

This package is the core: it imports no Prefect, and it is all that is installed on a rented machine.
"""

__version__ = "0.1.0"
