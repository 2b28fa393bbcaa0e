"""The HTTP API beside many past runs, on each of Prefect's databases."""
