"""The worker type `gpu`: one run per GPU, each on a process that stays warm between runs.

Prefect finds it by the entry point `prefect.collections`: `prefect worker start --pool gpu --type gpu`.
"""

from worker.gpu_worker import GpuWorker

__all__ = ["GpuWorker"]
