"""What an operator configures once in Prefect's UI: stores, providers, machines.

Import this package to have all block types known to the process.
"""

from blocks.machines import Machine
from blocks.providers import LocalProvider
from blocks.stores import LocalStore, S3Store

__all__ = ["LocalProvider", "LocalStore", "Machine", "S3Store"]
