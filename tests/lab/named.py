"""A primary name server that others run, a real BIND on loopback, and what anybody sees of it."""

import base64
import socket
import subprocess
import time
from pathlib import Path

import dns.exception
import dns.message
import dns.query
from role_modules import load
from runs import ROOT

MODULE = load("dns_failover", "dns_failover_update")
MOVER, OTHER = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
ADDRESSES = {"east": ["192.0.2.11", "192.0.2.12", "2001:db8::11"], "west": ["198.51.100.11"], "north": ["203.0.113.11"]}
CONF = """
key mover {{ algorithm hmac-sha256; secret "{mover}"; }};
key partial {{ algorithm hmac-sha256; secret "{other}"; }};
key faces {{ algorithm hmac-sha256; secret "{other}"; }};
controls {{ }};
options {{
  directory "{place}"; pid-file none; session-keyfile none; recursion no; notify no; dnssec-validation no;
  listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; allow-transfer {{ none; }};
}};
zone "example" {{ type primary; file "{place}/zone"; update-policy {{
  grant mover name cp.kv.example A AAAA CNAME; grant mover name ap.kv.example A AAAA CNAME; grant mover name epoch.kv.example TXT;
  grant partial name epoch.kv.example TXT; grant partial name cp.kv.example A AAAA CNAME;
  grant faces name cp.kv.example A AAAA CNAME; grant faces name ap.kv.example A AAAA CNAME;
}}; }};
"""
ZONE = """$TTL 300
@ SOA ns1 hostmaster ( 1 300 60 86400 3 )
@ NS ns1
ns1 A 127.0.0.1
cp.kv CNAME ns1
www A 192.0.2.80
"""


class Named:
    """A primary name server that others run; nothing of ours is in it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (place / "zone").write_text(ZONE)
        (place / "named.conf").write_text(CONF.format(place=place, port=self.port, mover=MOVER, other=OTHER))
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        program = str(ROOT / ".venv/bin/named")
        with (self.place / "log").open("w") as log:
            self.process = subprocess.Popen([program, "-g", "-n", "1", "-c", str(self.place / "named.conf")], stderr=log)
        for _ in range(100):
            if self.asks("www.example", "A", tries=1):
                return
            time.sleep(0.1)
        raise AssertionError((self.place / "log").read_text())

    def __enter__(self) -> "Named":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def asks(self, name: str, kind: str, tries: int = 30) -> list[str]:
        """As anybody asks: unsigned, over UDP, and again where no answer comes."""
        for _ in range(tries):
            try:
                answer = dns.query.udp(dns.message.make_query(name, kind), "127.0.0.1", port=self.port, timeout=1)
            except (OSError, dns.exception.Timeout):
                continue
            return sorted(record.to_text().strip('"') for found in answer.answer for record in found)
        return []

    def shows(self) -> dict[str, list[str]]:
        names = {"cp": [], "ap": []}
        for face in names:
            names[face] = self.asks(f"{face}.kv.example", "A") + self.asks(f"{face}.kv.example", "AAAA")
        return names | {"epoch": self.asks("epoch.kv.example", "TXT")}

    def given(self, region="east", epoch=1, moves=True, **other):
        given = {"server": "127.0.0.1", "port": self.port, "zone": "example", "domain": "kv.example", "key_name": "mover"}
        given |= {"key_algorithm": "hmac-sha256", "key_secret": MOVER, "ttl_seconds": 3, "addresses": ADDRESSES}
        return given | {"region": region, "epoch": epoch, "moves": moves, "known_region": "", "known_epoch": -1} | other

    def apply(self, *arguments, check_mode=False, **options):
        given = self.given(*arguments, **options)
        return MODULE.apply(MODULE.Primary(given), given, check_mode)


EAST = {"cp": ADDRESSES["east"], "ap": ADDRESSES["east"], "epoch": ["east 1"]}
WEST = {"cp": ADDRESSES["west"], "ap": ADDRESSES["west"], "epoch": ["west 2"]}
