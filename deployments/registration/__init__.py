"""What is put on a Prefect server: pool, deployments, blocks, automations."""
