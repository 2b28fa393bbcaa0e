"""What runs show in Prefect's UI: tables, summaries and pictures."""
