"""The proof at the end: one key written and read through every zone's edge, on both faces, over verified TLS."""

import concurrent.futures
import http.client
import json
import secrets
import ssl
import time
import urllib.parse
from dataclasses import dataclass

from . import paths
from .hosts import Lab
from .report import Problem

PORTS = {"cp": 5001, "ap": 5002}
SETTLE_SECONDS = 20.0
#: What an edge of a region that is not the active one says of itself.
CLOSED = {"standby", "fenced", "unconfirmed", "two_regions", "no answer"}


@dataclass(frozen=True)
class Edge:
    """One zone's edge."""

    zone: str
    region: str
    address: str

    def url(self, mode: str) -> str:
        return f"https://{self.address}:{PORTS[mode]}"


def all_edges(lab: Lab) -> list[Edge]:
    return [Edge(host.zone, host.region, host.address) for host in lab.hosts if host.serves]


def _said(found: list[Edge]) -> list[str]:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda edge: health(edge, "cp"), found))


def serving(lab: Lab) -> str:
    """The region of which an edge says that it is ready; `no region` while none does."""
    found = all_edges(lab)
    ready = {edge.region for edge, state in zip(found, _said(found), strict=True) if state == "ready"}
    return " and ".join(sorted(ready)) or "no region"


def active_region(lab: Lab) -> str:
    """The region whose edges do not send clients away; the one that was active at first while no edge answers."""
    found = all_edges(lab)
    said = _said(found)
    for wanted in ({"ready"}, set(said) - CLOSED):
        for edge, state in zip(found, said, strict=True):
            if state in wanted:
                return edge.region
    return lab.active_at_first


def edges(lab: Lab) -> list[Edge]:
    """Those of the active region."""
    active = active_region(lab)
    return [edge for edge in all_edges(lab) if edge.region == active]


def token(role: str) -> str:
    return (paths.TOKENS / role).read_text().strip()


def ask(edge: Edge, mode: str, method: str, path: str, *, role: str = "write", body: str | None = None) -> tuple[int, dict[str, object]]:
    """One request; returns (status, JSON). Raises OSError when no answer came."""
    context = ssl.create_default_context(cafile=str(paths.CA_FILE))
    connection = http.client.HTTPSConnection(edge.address, PORTS[mode], timeout=5, context=context)
    try:
        connection.request(method, path, body=body, headers={"Authorization": f"Bearer {token(role)}", "Content-Type": "text/plain"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")
    except (http.client.HTTPException, json.JSONDecodeError) as error:
        raise OSError(f"{edge.url(mode)}: {error!r}") from error
    finally:
        connection.close()


def until(deadline: float, edge: Edge, mode: str, method: str, path: str, want: str | None = None, **options: str) -> None:
    """Ask until the answer is a success (and, for a read, the wanted value); a Problem when the deadline passes first."""
    said: object = "nothing"
    while True:
        try:
            status, answer = ask(edge, mode, method, path, **options)
            if status == 200 and (want is None or answer.get("value") == want):
                return
            said = (status, answer)
        except OSError as error:
            said = error
        if time.monotonic() > deadline:
            raise Problem(
                f"{method} {edge.url(mode)}{path} through zone {edge.zone} did not succeed: {said}",
                "bin/lab status shows which zones answer; docker logs on the zone's host shows why",
            )
        time.sleep(0.1)


def run(lab: Lab) -> str:
    """Write through each zone in turn and read the value through all; returns a note for the step's line."""
    deadline = time.monotonic() + SETTLE_SECONDS
    count = 0
    zones = edges(lab)
    for mode in PORTS:
        for writer in zones:
            value = f"{writer.zone}-{secrets.token_hex(4)}"
            path = f"/write/{urllib.parse.quote('lab/round trip', safe='')}"
            until(deadline, writer, mode, "POST", path, body=value)
            for reader in zones:
                until(deadline, reader, mode, "GET", path.replace("/write/", "/read/"), want=value, role="read")
                count += 1
    return f"{count} reads ok"


def health(edge: Edge, mode: str) -> str:
    """`ready`, the reason why not, or `no answer`."""
    try:
        status, answer = ask(edge, mode, "GET", "/health", role="read")
    except OSError:
        return "no answer"
    error = answer.get("error")
    return "ready" if status == 200 else str(answer.get("reason") or (error.get("code", status) if isinstance(error, dict) else status))
