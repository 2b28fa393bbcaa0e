"""`python -m deployments.stack up|down|status`."""

from deployments.stack.commands import main

main()
