"""The boto3 clients an Ec2Provider uses: who they ask, how they sign, how long they wait."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config

from poorwill.aws_errors import FAULTS
from poorwill.errors import ProviderRefused, UsageError
from poorwill.providers.ec2.errors import aws_error

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
CONNECTIONS_MAX = 10
ATTEMPTS_MAX = 4
PRICES_REGION = "us-east-1"


class AwsClients:
    """Thread-safe clients of one account. Keys that are not given come from the usual AWS variables and files.

    They ask nobody yet. ProviderRefused if there are no credentials; UsageError for an endpoint that is no URL.
    """

    def __init__(
        self,
        region: str,
        access_key: str | None,
        secret_key: str | None,
        session_token: str | None,
        endpoint: str | None,
        attempts_max: int = ATTEMPTS_MAX,
    ) -> None:
        what = f"EC2 in {region}: cannot connect"
        try:
            session = boto3.Session(
                aws_access_key_id=access_key,
                aws_secret_access_key=secret_key,
                aws_session_token=session_token,
                region_name=region,
            )
            if session.get_credentials() is None:
                raise ProviderRefused(f"{what}: no credentials: give an access key and a secret key")
            config = Config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                max_pool_connections=CONNECTIONS_MAX,
                # Waits between attempts grow exponentially, with jitter, to 20 s.
                retries={"mode": "standard", "total_max_attempts": attempts_max},
            )
            self.ec2: Any = session.client("ec2", endpoint_url=endpoint, config=config)
            self.ssm: Any = session.client("ssm", endpoint_url=endpoint, config=config)
            self.pricing: Any = session.client(
                "pricing", endpoint_url=endpoint, config=config, region_name=PRICES_REGION
            )
        except FAULTS as error:
            raise aws_error(error, what) from error
        except ValueError as error:
            raise UsageError(f"{what}: the endpoint is not a URL like https://host:9000") from error
