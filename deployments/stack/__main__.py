"""`python -m deployments.stack up|down|status`."""

import sys

from deployments.stack.commands import run

raise SystemExit(run(sys.argv[1:], prog="python -m deployments.stack"))
