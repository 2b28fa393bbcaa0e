"""Machines rented on vast.ai's market.

Source: https://docs.vast.ai/api-reference (read in November 2026). A machine is a container on a stranger's host. Its
disk bills from its creation on, its GPUs while it runs. vast.ai puts a key into each container that can start, stop and
destroy that container alone; the account's key is never sent there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from poorwill.errors import (
    DeadlineExceeded,
    NotFound,
    PermanentError,
    PoorwillError,
    ProviderRefused,
    ProviderUnavailable,
    Refused,
)
from poorwill.providers.base import OFFERS_MAX, Endpoint, Instance, Offer, Wish, checked_label, checked_public_keys
from poorwill.providers.vast.answers import Row, address_of, failure_of, id_of, instance_of, status_of
from poorwill.providers.vast.api import TOTAL_S, Reply, VastApi
from poorwill.providers.vast.offers import chosen, described, disk_gb, search_body
from poorwill.retry import polls

BASE_URL = "https://console.vast.ai"
IMAGE = "vastai/base-image:@vastai-automatic-tag"
"""vast.ai's own image: sshd, Python, and the CUDA version that the host's driver can run."""
OFFERS_TRIED_MAX = 5
POLL_S = 5.0
PAGES_MAX = 200
_PAGE_ROWS = 25  # the most that it gives
_PAGE_PAUSE_S = 1.0  # its least interval between two of these requests
_MISSES_MAX = 3
_ID = re.compile(r"[1-9][0-9]{0,17}")
log = logging.getLogger(__name__)


class VastProvider:
    """The machines of one vast.ai account.

    `image` must accept the SSH keys that vast.ai puts there, as its own images do. `public_keys` (OpenSSH lines) are
    added to each machine, beside the keys of the account. The bid for a spot machine is the lowest that gets it.
    `sleep` and `clock` (s) can be replaced.
    """

    def __init__(
        self,
        api_key: str,
        *,
        image: str = IMAGE,
        public_keys: Sequence[str] = (),
        base_url: str = BASE_URL,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._public_keys = checked_public_keys(public_keys)
        self._api = VastApi(api_key, base_url, sleep=sleep, clock=clock)
        self._image = image
        self._sleep = sleep
        self._clock = clock
        where = "" if self._api.base_url == BASE_URL else f" at {self._api.base_url}"
        # The name differs for each account: an intent is closed when its provider has no machine with its label.
        self._name = f"vast.ai{where} (API key #{hashlib.sha256(api_key.encode()).hexdigest()[:8]})"

    def describe(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"VastProvider({self._name})"

    def offers(self, wish: Wish) -> list[Offer]:
        return [offer for offer, _ in self._market(wish)][:OFFERS_MAX]

    def _market(self, wish: Wish) -> list[tuple[Offer, float | None]]:
        answer = self._api.ask("POST", "/api/v0/bundles/", body=search_body(wish.check()))
        rows = answer.get("offers")
        if not isinstance(rows, list):
            raise ProviderUnavailable("vast.ai answered a search without offers: try again later")
        return chosen(rows, wish)

    def create(self, label: str, wish: Wish) -> Instance:
        checked_label(label)
        market = self._market(wish)
        if not market:
            raise Refused(
                f"{self._name} has no offer for {described(wish)}: ask for less, pay more, or try again later"
            )
        for offer, bid in market[:OFFERS_TRIED_MAX]:
            instance_id = self._rent(offer, bid, label, wish)
            if instance_id is not None:
                return self._rented(instance_id, label, offer)
        tried = min(len(market), OFFERS_TRIED_MAX)
        raise ProviderUnavailable(f"{self._name}: {tried} offers were taken meanwhile; nothing was created: try again")

    def _rent(self, offer: Offer, bid: float | None, label: str, wish: Wish) -> str | None:
        """The id of the new machine, which bills from now on; None if the offer is gone."""
        body = {
            "client_id": "me",
            "image": self._image,
            "disk": disk_gb(wish),
            "runtype": "ssh_direct",
            "target_state": "running",
            "cancel_unavail": True,
            "label": label,
            "onstart": "touch ~/.no_auto_tmux",  # else a login starts tmux, through which an engine cannot talk
            "env": {},
        }
        if bid is not None:
            body["price"] = bid
        path = f"/api/v0/asks/{offer.id}/"
        perhaps = f"a machine labelled {label} may exist and bill: look for it before another one is created"
        try:
            reply = self._api.exchange("PUT", path, body=body, repeatable=False)
        except ProviderUnavailable as error:
            raise ProviderUnavailable(f"{error.message}; {perhaps}", label=label) from None
        if _is_gone(reply):
            return None
        if not reply.ok:
            raise self._api.refusal(reply, f"renting offer {offer.id}")
        instance_id = id_of(reply.fields, "new_contract")
        if instance_id is None:
            raise ProviderUnavailable(
                f"vast.ai rented offer {offer.id} and did not name the machine; {perhaps}", label=label
            )
        return instance_id

    def _rented(self, instance_id: str, label: str, offer: Offer) -> Instance:
        """A new machine. It bills, so no error may lose its id."""
        row: Row | None = None
        try:
            self._attach_keys(instance_id)
            row = self._row(instance_id)
        except PoorwillError as error:
            log.warning("%s was created, but: %s", instance_id, error.message)  # `wait` does both again
        promised = {"id": int(instance_id), "label": label, "dph_total": offer.price_per_hour}
        return instance_of(promised if row is None else row)

    def _attach_keys(self, instance_id: str) -> None:
        """Idempotent."""
        for key in self._public_keys:
            reply = self._api.exchange("POST", f"/api/v0/instances/{instance_id}/ssh/", body={"ssh_key": key})
            if not reply.ok and "already associated" not in reply.text:
                raise self._api.refusal(reply, f"giving instance {instance_id} a public key")

    def get(self, instance_id: str) -> Instance:
        return instance_of(self._known_row(instance_id))

    def _known_row(self, instance_id: str) -> Row:
        row = self._row(instance_id) if _ID.fullmatch(instance_id) else None
        if row is None:
            raise self._unknown(instance_id)
        return row

    def _unknown(self, instance_id: str) -> NotFound:
        return NotFound(f"{self._name} has no instance {instance_id[:80]}", instance=instance_id[:80])

    def _row(self, instance_id: str, within_s: float = TOTAL_S) -> Row | None:
        """How vast.ai describes an instance; None once two of its endpoints agree that it does not exist."""
        path = f"/api/v0/instances/{instance_id}/"
        reply = self._api.exchange("GET", path, query={"owner": "me"}, within_s=within_s)
        if reply.denied or not (reply.ok or reply.status == 404):
            raise self._api.refusal(reply, f"GET {path}")
        row = reply.fields.get("instances")
        if reply.ok and row is not None:
            if not isinstance(row, dict) or id_of(row) != instance_id:
                raise ProviderUnavailable(f"vast.ai answered GET {path} with something else: try again later")
            return row
        # One 404 does not prove that nothing bills: a server that does not know the instance yet answers the same.
        listed = self._listed({"id": {"eq": int(instance_id)}}, within_s)
        return next((row for row in listed if id_of(row) == instance_id), None)

    def list_by_label(self, label: str) -> list[Instance]:
        listed = self._listed({"label": {"eq": label}})
        return [found for found in map(instance_of, listed) if found.label == label]

    def list_by_prefix(self, prefix: str) -> list[Instance]:
        return [found for found in map(instance_of, self._listed({})) if found.label.startswith(prefix)]

    def _listed(self, filters: Mapping[str, Any], within_s: float = TOTAL_S) -> list[Row]:
        """Every instance that passes the filters. ProviderUnavailable if the list may be incomplete."""
        query = {
            "limit": str(_PAGE_ROWS),
            "order_by": json.dumps([{"col": "id", "dir": "asc"}]),
            "select_filters": json.dumps(filters),
        }
        found: list[Row] = []
        for _ in range(PAGES_MAX):
            answer = self._api.ask("GET", "/api/v1/instances/", query=query, within_s=within_s)
            rows, token = answer.get("instances"), answer.get("next_token")
            if not isinstance(rows, list) or not all(isinstance(row, dict) and id_of(row) for row in rows):
                raise ProviderUnavailable("vast.ai answered a listing without instances: try again later")
            found += rows
            if not token:
                return found
            query["after_token"] = str(token)[:4096]
            self._sleep(_PAGE_PAUSE_S)
        raise ProviderUnavailable(f"vast.ai lists more than {PAGES_MAX * _PAGE_ROWS} instances: that cannot be")

    def wait(self, instance_id: str, timeout_s: float) -> Instance:
        """See Provider. PermanentError if it can never run; ProviderRefused if it does not take a public key."""
        if _ID.fullmatch(instance_id) is None:
            raise self._unknown(instance_id)
        found: deque[Row | None] = deque(maxlen=_MISSES_MAX)

        def missing(within_s: float) -> str:
            found.append(self._row(instance_id, within_s))
            # Not every server knows a new machine at once: it has vanished if it is missing several times in a row.
            if len(found) == _MISSES_MAX and not any(found):
                raise self._unknown(instance_id)
            return self._missing(instance_id, found[-1]) if found[-1] else "not found"

        self._until(instance_id, timeout_s, "does not run", missing)
        return instance_of(found[-1] or {})

    def _missing(self, instance_id: str, row: Row) -> str:
        """What is missing until it runs and has our keys; "" for nothing."""
        if (failure := failure_of(row)) is not None:
            raise PermanentError(
                f"instance {instance_id} will not run: {failure}; {_bills(instance_id)}", instance=instance_id
            )
        if not instance_of(row).running:
            return status_of(row) or "provisioning"
        self._attach_keys(instance_id)
        return ""

    def _until(self, instance_id: str, timeout_s: float, state: str, missing: Callable[[float], str]) -> None:
        """Call `missing` with the seconds that are left until it returns "", also through outages."""
        for left_s in polls(POLL_S, timeout_s, clock=self._clock, sleep=self._sleep):
            try:
                why = missing(left_s)
                if not why:
                    return
            except ProviderUnavailable as error:
                why = error.message
            except ProviderRefused as error:
                raise ProviderRefused(f"{error.message}; {_bills(instance_id)}", instance=instance_id) from None
        raise DeadlineExceeded(
            f"instance {instance_id} {state} after {timeout_s:.0f} s: {why}; {_bills(instance_id)}",
            instance=instance_id,
        )

    def endpoint(self, instance_id: str) -> Endpoint:
        """See Provider. ProviderUnavailable while it has no address."""
        row = self._known_row(instance_id)
        address = address_of(row)
        if address is None:
            status = status_of(row) or "provisioning"
            raise ProviderUnavailable(f"instance {instance_id} of vast.ai has no SSH address yet ({status}): wait")
        return address

    def exists(self, instance_id: str) -> bool:
        return _ID.fullmatch(instance_id) is not None and self._row(instance_id) is not None

    def destroy(self, instance_id: str, timeout_s: float) -> None:
        if _ID.fullmatch(instance_id) is None:
            return
        path = f"/api/v0/instances/{instance_id}/"

        def missing(within_s: float) -> str:
            reply = self._api.exchange("DELETE", path, body={}, within_s=within_s)
            if reply.denied or not (reply.ok or reply.status == 404):
                raise self._api.refusal(reply, f"DELETE {path}")
            return "" if self._row(instance_id, within_s) is None else "it is still listed"

        self._until(instance_id, timeout_s, "is not gone", missing)


def _bills(instance_id: str) -> str:
    return f"instance {instance_id} may still bill: destroy it, or do it by hand at https://cloud.vast.ai/instances/"


def _is_gone(reply: Reply) -> bool:
    """Whether an offer is gone, so that nothing was created."""
    if reply.ok or reply.denied:
        return False
    return reply.status == 410 or "no_such_ask" in reply.text or "invalid_price" in reply.text
