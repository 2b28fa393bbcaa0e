"""What an operator configures once in Prefect's UI: stores, providers, machines.

Import this package to have all block types known to the process.
"""

from blocks.machines import Machine
from blocks.providers import Ec2Provider, LocalProvider, OwnMachines, VastProvider
from blocks.stores import LocalStore, S3Store

__all__ = ["Ec2Provider", "LocalProvider", "LocalStore", "Machine", "OwnMachines", "S3Store", "VastProvider"]
