"""Blocks that say where machines come from. `open()` gives the provider of poorwill."""

from __future__ import annotations

from hashlib import sha256
from typing import get_args

from prefect.blocks.core import Block
from prefect_aws import AwsCredentials
from pydantic import Field, SecretStr

from blocks.access import SshAccess
from blocks.stores import keys_of
from poorwill.providers import registry
from poorwill.providers.base import Provider
from poorwill.providers.vast import provider as vast


class LocalProvider(Block):
    """Machines that are directories of the host that runs the flows: for trying out, and for one's own host."""

    _block_type_name, _block_type_slug = registry.LOCAL.title, registry.LOCAL.slug

    root: str = Field(description="Absolute path of the directory that holds the machines.")

    def open(self) -> Provider:
        """The provider. UsageError."""
        return registry.LOCAL.make(self.root)


class VastProvider(SshAccess):
    """Machines rented from vast.ai."""

    _block_type_name, _block_type_slug = registry.VAST.title, registry.VAST.slug

    api_key: SecretStr = Field(description="From https://cloud.vast.ai/manage-keys/. It never leaves the control side.")
    image: str = Field(
        default=vast.IMAGE, description="The Docker image of new machines. It must have Python 3.10 or newer."
    )
    url: str = Field(default=vast.BASE_URL, description="Of the API.")

    def open(self) -> Provider:
        """The provider. UsageError."""
        return registry.VAST.make(
            self.api_key.get_secret_value(), image=self.image, public_keys=self.public_lines(), base_url=self.url
        )


class Ec2Provider(SshAccess):
    """Machines rented from Amazon EC2, on demand or spot, in one region."""

    _block_type_name, _block_type_slug = registry.EC2.title, registry.EC2.slug

    credentials: AwsCredentials = Field(
        description="Keys that may describe, run, tag and terminate instances. They never leave the control side."
    )
    region: str = Field(description="For example eu-west-1.")
    account: str = Field(
        default="",
        description="The number of the AWS account, by which its machines are told from those of other accounts. "
        "Empty: a digest of the access key, which changes with the key.",
    )
    image_id: str = Field(
        default="", description="The AMI of new machines. Empty: Amazon's current Deep Learning AMI on Ubuntu."
    )
    user: str = Field(default="ubuntu", description="Whom that image lets in.")
    instance_types: list[str] = Field(
        default=[], description="Only these types, for example g5.xlarge. Empty: any that fulfils the wish."
    )
    security_group_ids: list[str] = Field(
        default=[], description="They must let SSH in from where the flows run. Empty: the VPC's default group."
    )
    subnet_id: str = Field(default="", description="Empty: the default VPC's.")

    def open(self) -> Provider:
        """The provider. UsageError."""
        found = self.credentials
        access_key, secret_key, session_token = keys_of(found, "EC2 provider")
        return registry.EC2.make(
            self.region,
            access_key=access_key,
            secret_key=secret_key,
            session_token=session_token,
            endpoint=found.aws_client_parameters.endpoint_url,
            account=self.account or f"with key #{sha256((access_key or '').encode()).hexdigest()[:8]}",
            image_id=self.image_id,
            user=self.user,
            public_keys=self.public_lines(),
            instance_types=self.instance_types,
            security_group_ids=self.security_group_ids,
            subnet_id=self.subnet_id or None,
        )


class OwnMachines(SshAccess):
    """Machines that are always there and looked after by hand: they are never created or destroyed."""

    _block_type_name, _block_type_slug = registry.OWN.title, registry.OWN.slug

    def open(self) -> Provider:
        """The provider."""
        return registry.OWN.make()


# The ones that need least come last: they would accept the fields of the others.
AnyProvider = LocalProvider | VastProvider | Ec2Provider | OwnMachines
PROVIDERS: tuple[type[AnyProvider], ...] = get_args(AnyProvider)
