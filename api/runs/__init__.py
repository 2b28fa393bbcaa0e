"""Runs of Poorwill's flows over Prefect's API: created, shown, awaited and cancelled."""
