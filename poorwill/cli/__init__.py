"""The command-line program `poorwill`: the core, usable without any server, and flows over a Prefect server."""
