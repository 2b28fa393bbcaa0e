"""`python -m deployments.registration`."""

from deployments.registration.register import main

raise SystemExit(main())
