"""The steps of flows, as Prefect tasks. Their inputs are plain ids, names and numbers."""
