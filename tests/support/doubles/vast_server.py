"""A double of vast.ai's API on loopback: it answers in the shapes of the public reference, keeps state, and can fail.

It stands in for what cannot run here, a market of rented machines. Shapes: the OpenAPI documents at
https://docs.vast.ai/api-reference; the answers to a known SSH key and to an account without credit are as users
report them. Every request is in `requests`.

    with VastServer() as server:
        provider = VastProvider(server.api_key, base_url=server.url, sleep=...)
"""

from __future__ import annotations

import base64
import http.server
import itertools
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.doubles.vast_market import market, passes, price

REQUESTS_KEPT_MAX = 10_000
PAGE_ROWS_MAX = 25
_BODY_BYTES_MAX = 1 << 20

Answer = tuple[int, Any]
"""A status and what is sent as JSON."""


class Machines:
    """What stands behind the rented machines; a test may put real SSH servers here."""

    def on_create(self, instance_id: int, label: str, public_keys: list[str]) -> tuple[str, int]:
        """Where the machine's SSH server is. `public_keys` grows when keys are attached later."""
        return f"203.0.113.{instance_id % 250 + 1}", 20000 + instance_id % 1000

    def on_key(self, instance_id: int, public_key: str) -> None:
        """A key was attached."""

    def on_destroy(self, instance_id: int) -> None:
        """The machine was destroyed."""


@dataclass
class Fault:
    """An answer given in place of the real one, to the next `times` requests that begin with `to`."""

    to: str  # method and path, like "PUT /api/v0/asks/"
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 1


@dataclass
class Behaviour:
    """How rented machines, and the account, behave from now on."""

    statuses: tuple[str | None, ...] = ("running",)  # one for each poll of a machine; the last one stays
    status_msg: str = ""  # told while a machine does not run
    ports: str = "map"  # how a running machine tells them: "map", "list" or "null"
    proxy: tuple[str, int] | None = None  # vast.ai's own way to them; None: their addresses
    taken: int = 0  # so many of the next offers that are rented turn out to be taken
    create_answer_lost: bool = False  # the next machine is created and bills, and the connection is cut
    polls_until_gone: int = 0  # a destroyed machine is still there for so many polls
    keys_taken_after: int = 0  # so many attached keys are refused first
    no_credit: bool = False


@dataclass
class Rented:
    """A machine that bills."""

    id: int
    row: dict[str, Any]
    address: tuple[str, int]
    statuses: deque[str | None]
    public_keys: list[str]
    polls_left: int | None = None  # until it is gone; None: nobody destroyed it


class VastServer:
    """One account and a market. Thread-safe; `close` stops it."""

    def __init__(self, *, api_key: str = "vast-key-0123456789abcdef", machines: Machines | None = None) -> None:
        self.api_key = api_key
        self.machines = machines or Machines()
        self.offers = market()
        self.rented: dict[int, Rented] = {}
        self.created: list[int] = []  # every machine that ever was
        self.behaviour = Behaviour()
        self.faults: list[Fault] = []
        self.requests: deque[str] = deque(maxlen=REQUESTS_KEPT_MAX)  # "METHOD /path?query"
        self.bodies: deque[Any] = deque(maxlen=REQUESTS_KEPT_MAX)
        self._ids = itertools.count(5001)
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"account": self})
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), name="vast", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> VastServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)

    def count(self, begins: str) -> int:
        """How many requests began with a method and path."""
        return sum(request.startswith(begins) for request in self.requests)

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault to answer a request with, if there is one."""
        with self._lock:
            for planned in self.faults:
                if planned.times > 0 and f"{method} {path}".startswith(planned.to):
                    planned.times -= 1
                    return planned
        return None

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Answer | None:
        """What a request with the right key is answered; None: the connection is cut."""
        parts = [part for part in path.split("/") if part]
        with self._lock:
            match (method, *parts):
                case ("POST", "api", "v0", "bundles"):
                    return 200, {"offers": self._search(body)}
                case ("PUT", "api", "v0", "asks", number):
                    return self._create(int(number), body)
                case ("GET", "api", "v1", "instances"):
                    return self._list(query)
                case (_, "api", "v0", "instances", number, *rest):
                    return self._instance(method, int(number), rest, body)
        return 404, {"success": False, "error": "not_found", "msg": "no such endpoint"}

    def _search(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        bid = body.get("type") == "bid"
        priced = [{**offer, **price(offer, body.get("allocated_storage", 8), bid)} for offer in self.offers]
        found = [row for row in priced if passes(row, body)]
        for name, direction in reversed(body.get("order", [])):
            found.sort(key=lambda row, name=name: row[name], reverse=direction == "desc")
        return found[: body.get("limit", 64)]

    def _create(self, offer_id: int, body: Mapping[str, Any]) -> Answer | None:
        if self.behaviour.no_credit:
            msg = "Your account lacks credit; see the billing page."
            return 400, {"success": False, "error": "insufficient_credit", "msg": msg}
        wanted = next((offer for offer in self.offers if offer["id"] == offer_id), None)
        if wanted is None:
            msg = f"error 404/3603: no_such_ask Instance type by id {offer_id} is not available."
            return 404, {"success": False, "error": "invalid_args", "msg": msg, "ask_id": offer_id}
        if self.behaviour.taken:
            self.behaviour.taken -= 1
            self.offers.remove(wanted)
            msg = f"error 410/3907: no_such_ask Instance type {offer_id} is no longer available."
            return 410, {"success": False, "error": "no_such_ask", "msg": msg, "ask_id": offer_id}
        if body.get("price") is not None and body["price"] < wanted["min_bid"]:
            return 400, {"success": False, "error": "invalid_price", "msg": "bid too low", "ask_id": offer_id}
        machine = self._rent(wanted, body)
        if self.behaviour.create_answer_lost:
            self.behaviour.create_answer_lost = False
            return None
        return 200, {"success": True, "new_contract": machine.id, "instance_api_key": "d15a0000feed"}

    def _rent(self, wanted: Mapping[str, Any], body: Mapping[str, Any]) -> Rented:
        machine_id, keys = next(self._ids), list[str]()
        told = ("gpu_name", "num_gpus", "geolocation", "storage_cost", "reliability2", "inet_down", "min_bid")
        row = {
            **{name: wanted[name] for name in told},
            **price(wanted, body["disk"], body.get("price") is not None),
            "id": machine_id,
            "label": body.get("label"),
            "image_uuid": body["image"],
            "image_runtype": "ssh ssh_direc ssh_proxy",
            "disk_space": body["disk"],
            "intended_status": body.get("target_state", "running"),
            "is_bid": body.get("price") is not None,
            "start_date": time.time(),
            "jupyter_token": "53fc448d6644aa75",
        }
        address = self.machines.on_create(machine_id, str(body.get("label")), keys)
        machine = Rented(machine_id, row, address, deque(self.behaviour.statuses), keys)
        self.rented[machine_id] = machine
        self.created.append(machine_id)
        return machine

    def _list(self, query: Mapping[str, str]) -> Answer:
        filters = json.loads(query.get("select_filters", "{}"))
        if set(filters) - {"id", "label", "actual_status", "gpu_name"}:
            return 400, {"error": "invalid_request", "msg": "Error in query parameters: not a valid search key"}
        after = json.loads(base64.b64decode(query["after_token"]))["values"]["id"] if "after_token" in query else 0
        rows = [self._described(machine) for machine in self.rented.values()]
        found = sorted((row for row in rows if passes(row, filters)), key=lambda row: row["id"])
        left = [row for row in found if row["id"] > after]
        page = left[: min(int(query.get("limit", PAGE_ROWS_MAX)), PAGE_ROWS_MAX)]
        last = {"values": {"id": page[-1]["id"]}} if len(left) > len(page) else None
        token = base64.b64encode(json.dumps(last).encode()).decode() if last else None
        told = {"success": True, "instances_found": len(page), "total_instances": len(found), "next_token": token}
        return 200, {**told, "instances": page}

    def _instance(self, method: str, machine_id: int, rest: list[str], body: Any) -> Answer:
        machine = self.rented.get(machine_id)
        match (method, *rest):
            case ("GET",):
                self._age(machine)
                return 200, {"instances": self._described(machine) if machine_id in self.rented and machine else None}
            case (_, *_) if machine is None:
                return 404, {"success": False, "error": "not_found", "msg": "Instance not found"}
            case ("DELETE",):
                return self._destroy(machine)
            case ("POST", "ssh"):
                return self._attach(machine, str(body["ssh_key"]))
        return 404, {"success": False, "error": "not_found", "msg": "no such endpoint"}

    def _age(self, machine: Rented | None) -> None:
        """Each poll brings a machine nearer to what becomes of it."""
        if machine is None:
            return
        if machine.polls_left is None and len(machine.statuses) > 1:
            machine.statuses.popleft()
        elif machine.polls_left is not None:
            machine.polls_left -= 1
            if machine.polls_left < 0:
                del self.rented[machine.id]

    def _destroy(self, machine: Rented) -> Answer:
        if machine.polls_left is None:
            machine.polls_left = self.behaviour.polls_until_gone
            self.machines.on_destroy(machine.id)
            if machine.polls_left == 0:
                del self.rented[machine.id]
        return 200, {"success": True, "msg": "Instance destroyed successfully"}

    def _attach(self, machine: Rented, key: str) -> Answer:
        if self.behaviour.keys_taken_after:
            self.behaviour.keys_taken_after -= 1
            return 400, {"success": False, "error": "invalid_args", "msg": "instance is not ready"}
        if key in machine.public_keys:
            return 400, {"success": False, "msg": "SSH key already associated with instance."}
        machine.public_keys.append(key)
        self.machines.on_key(machine.id, key)
        return 200, {"success": True, "msg": "SSH key attached successfully"}

    def _described(self, machine: Rented) -> dict[str, Any]:
        status = machine.statuses[0]
        host, port = machine.address
        running = status == "running"
        ports: dict[str, Any] = {
            "map": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(port)}]},
            "list": [port, 8080],
            "null": None,
        }
        return {
            **machine.row,
            "actual_status": status,
            "status_msg": None if running else self.behaviour.status_msg,
            "public_ipaddr": f"{host}\n" if running else None,
            "ports": ports[self.behaviour.ports] if running else None,
            "ssh_host": (self.behaviour.proxy or machine.address)[0],
            "ssh_port": (self.behaviour.proxy or machine.address)[1],
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    """HTTP around `VastServer.answer`."""

    account: VastServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _handle(self) -> None:
        account, url = self.account, urlsplit(self.path)
        raw = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), _BODY_BYTES_MAX))
        body = json.loads(raw) if raw else None
        account.requests.append(f"{self.command} {self.path}")
        account.bodies.append(body)
        fault = account.fault(self.command, url.path)
        if fault is not None:
            return self._send(fault.status, fault.body, fault.headers)
        if self.headers.get("Authorization") != f"Bearer {account.api_key}":
            status = 404 if url.path == "/api/v0/bundles/" else 401
            refused = {"success": False, "error": "auth_error", "msg": "Invalid user key"}
            return self._send(status, json.dumps(refused).encode())
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        answer = account.answer(self.command, url.path, query, body)
        if answer is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return None
        return self._send(answer[0], json.dumps(answer[1]).encode())

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
