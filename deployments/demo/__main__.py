"""`python -m deployments.demo`."""

import os
import sys

from deployments.demo.command import main

code = main()
sys.stdout.flush()
# Prefect's threads are gone or do not matter: leaving them to be joined only takes time.
os._exit(code)
