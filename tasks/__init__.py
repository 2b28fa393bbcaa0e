"""The steps of flows, as Prefect tasks. Their inputs are plain ids, names, numbers and records.

`machine`, `store`, `provider` and `webhook` are names of blocks, `run` is the id under which this process keeps the
connection to a machine, and `workspace` a path there.
"""
