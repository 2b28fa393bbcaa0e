"""`python -m deployments.demo`."""

from deployments.demo.run import leave, main

leave(main())
