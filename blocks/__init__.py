"""What an operator configures once in Prefect's UI: stores, providers, machines, video models and their media,
webhooks.

Import this package to have all block types known to the process.
"""

from blocks.machines import Machine
from blocks.media import Media
from blocks.providers import Ec2Provider, LocalProvider, OwnMachines, VastProvider
from blocks.stores import LocalStore, S3Store
from blocks.video_models import VideoModel
from blocks.webhooks import Webhook

__all__ = [
    "Ec2Provider",
    "LocalProvider",
    "LocalStore",
    "Machine",
    "Media",
    "OwnMachines",
    "S3Store",
    "VastProvider",
    "VideoModel",
    "Webhook",
]
