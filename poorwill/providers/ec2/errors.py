"""What the error codes of EC2 mean. Source: the EC2 API reference, "Error codes for the Amazon EC2 API"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from poorwill.aws import ErrorTable
from poorwill.errors import ProviderRefused, ProviderUnavailable

_CREDENTIALS = "check the access key, the secret key and the session token of the provider"
_QUOTA = "raise that quota of EC2 in Service Quotas, or destroy what runs already"
_PERMISSION = "these credentials may not do that: allow the action in their IAM policy"
_REFUSALS = {
    "AuthFailure": f"the credentials are not valid: {_CREDENTIALS}",
    "InvalidClientTokenId": f"the access key is not known: {_CREDENTIALS}",
    "UnrecognizedClientException": f"the access key is not known: {_CREDENTIALS}",
    "InvalidAccessKeyId": f"the access key is not known: {_CREDENTIALS}",
    "SignatureDoesNotMatch": f"the secret key is wrong: {_CREDENTIALS}",
    "InvalidSignatureException": f"the secret key is wrong: {_CREDENTIALS}",
    "ExpiredToken": "the session token has expired: renew the credentials",
    "ExpiredTokenException": "the session token has expired: renew the credentials",
    "RequestExpired": "the request is too old: set this machine's clock, or renew the credentials",
    "UnauthorizedOperation": _PERMISSION,
    "AccessDenied": _PERMISSION,
    "AccessDeniedException": _PERMISSION,
    "OptInRequired": "the account has not enabled this service or region: enable it in the console",
    "PendingVerification": "AWS is still verifying the account: try again when it has",
    "Blocked": "the account is blocked: ask AWS Support",
    "VcpuLimitExceeded": f"the account's limit of vCPUs of this family is reached: {_QUOTA}",
    "InstanceLimitExceeded": f"the account's limit of instances is reached: {_QUOTA}",
    "MaxSpotInstanceCountExceeded": f"the account's limit of spot instances is reached: {_QUOTA}",
    "MaxSpotFleetRequestCountExceeded": f"the account's limit of spot requests is reached: {_QUOTA}",
    "VolumeLimitExceeded": f"the account's limit of disk storage is reached: {_QUOTA}",
    "InsufficientFreeAddressesInSubnet": "the subnet has no address left: choose another one",
    "OperationNotPermitted": "termination protection is on: switch it off for that instance, then destroy it again",
    "DefaultVpcDoesNotExist": "the account has no default VPC in this region: set a subnet and security groups",
    "VPCIdNotSpecified": "the account has no default VPC in this region: set a subnet and security groups",
    "ParameterNotFound": "there is no such parameter in this region: correct image_parameter, or set image_id",
}
CAPACITY = {
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientCapacity",
    "UnfulfillableCapacity",
    "Unsupported",  # of an instance type: not in this zone, or not with this image
    "SpotMaxPriceTooLow",  # the price rose since it was offered
}
"""This offer is gone, another one may still be there. Some of these codes come with status 500."""

_TRANSIENT = {
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "EC2ThrottledException",
    "BandwidthLimitExceeded",
    "RequestTimeout",
    "Unavailable",
    "ServiceUnavailable",
    "InternalError",
    "InternalFailure",
    "ResourceCountExceeded",
}
_MISSING = ("InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed", "InvalidInstanceId")

EC2 = ErrorTable(
    refused=ProviderRefused,
    unavailable=ProviderUnavailable,
    refusals=_REFUSALS,
    missing=dict.fromkeys(_MISSING, "there is no such instance"),
    transient=_TRANSIENT,
    credentials=_CREDENTIALS,
    network="check the network and the region",
    invalid="check the image, subnet and security groups of the provider",
)


def paged(client: Any, operation: str, what: str, pages_max: int, **request: Any) -> Iterator[dict[str, Any]]:
    """Every page of a list. ProviderUnavailable if there are more than `pages_max`: a short list would be wrong."""
    with EC2.translated(what):
        for number, page in enumerate(client.get_paginator(operation).paginate(**request)):
            if number == pages_max:
                raise ProviderUnavailable(f"{what}: the list does not end after {pages_max} pages")
            yield page
