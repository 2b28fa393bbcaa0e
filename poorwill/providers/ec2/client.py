"""The boto3 clients of an Ec2Provider."""

from __future__ import annotations

from typing import Any

from poorwill.aws import aws_session, client_config
from poorwill.errors import UsageError
from poorwill.providers.ec2.errors import EC2

CONNECTIONS_MAX = 10
ATTEMPTS_MAX = 4
PRICES_REGION = "us-east-1"


def aws_clients(
    region: str, access_key: str | None, secret_key: str | None, session_token: str | None, endpoint: str | None
) -> tuple[Any, Any, Any]:
    """Thread-safe clients of EC2, SSM and the price list. No request is sent yet.

    ProviderRefused without credentials; UsageError for a malformed endpoint.
    """
    what = f"EC2 in {region}: cannot connect"
    config = client_config(CONNECTIONS_MAX, ATTEMPTS_MAX)
    try:
        with EC2.translated(what):
            session = aws_session(region, access_key, secret_key, session_token)
            regions = {"ec2": region, "ssm": region, "pricing": PRICES_REGION}
            ec2, ssm, pricing = (
                session.client(service, region_name=where, endpoint_url=endpoint, config=config)
                for service, where in regions.items()
            )
            return ec2, ssm, pricing
    except ValueError as error:
        raise UsageError(f"{what}: the endpoint is not a URL like https://host:9000") from error
