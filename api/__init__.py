"""The HTTP gateway: the endpoints that existing clients call, over Prefect's API. Stateless."""
