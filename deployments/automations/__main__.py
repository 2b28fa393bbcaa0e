"""`python -m deployments.automations`."""

from deployments.automations.apply import main

raise SystemExit(main())
