"""Server processes of this host: Prefect's, S3, a worker, a picture."""
