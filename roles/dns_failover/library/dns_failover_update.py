#!/usr/bin/python
"""Holds the public names on a primary name server elsewhere, by signed dynamic updates (RFC 2136): all of it in one step, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.dns_failover_moves import Held, Refused, Taken, next_held

try:
    import dns.exception
    import dns.flags
    import dns.message
    import dns.name
    import dns.query
    import dns.rcode
    import dns.tsig
    import dns.update
except ImportError:
    dns = None

DOCUMENTATION = """
module: dns_failover_update
short_description: Has a primary name server answer for the region that is held, or moves the names to another region
description:
  - Refuses an epoch below the one held, and another region under the same epoch. The update has the TXT record of epoch.<domain>, exactly
    as it was read, as its prerequisite, so that the server itself refuses it when somebody was faster. Then all is read and decided anew.
  - cp, ap and epoch are replaced in one update, which the server takes as a whole or not at all.
  - Without a move it keeps what is held. Everything is signed and goes over TCP. In check mode, and where nothing changes, an update is
    sent that changes nothing, so that a key that the server does not take, or that may not change the names, shows.
options:
  server: {type: str, required: true, description: Address of the primary name server.}
  port: {type: int, default: 53, description: Its TCP port.}
  zone: {type: str, required: true, description: The zone that the names are in.}
  domain: {type: str, required: true, description: "What cp, ap and epoch stand before."}
  key_name: {type: str, required: true, description: Name of the TSIG key.}
  key_algorithm: {type: str, default: hmac-sha256, description: Its algorithm.}
  key_secret: {type: str, required: true, description: "Its secret, in base64."}
  ttl_seconds: {type: int, required: true, description: How long resolvers may keep an answer.}
  addresses: {type: dict, required: true, description: "For each region the addresses of the edges to answer with, IPv4 and IPv6."}
  region: {type: str, required: true, description: "The region to move to, or the one to begin with."}
  epoch: {type: int, required: true, description: "Its epoch."}
  moves: {type: bool, required: true, description: "Whether to move to region and epoch; else they count only where nothing is held yet."}
  known_region: {type: str, default: "", description: "What a name server answers that may be ahead; empty: nothing is known."}
  known_epoch: {type: int, default: -1, description: "Its epoch."}
  others: {type: list, elements: str, default: [], description: Other name servers of the zone; asked until they answer a change too.}
  wait_seconds: {type: float, default: 10, description: For how long at most. One that is late is named by a warning and fails nothing.}
author: Holdfast
"""
EXAMPLES = """
- dns_failover_update:
    server: 192.0.2.53
    zone: example.net
    domain: kv.example.net
    key_name: holdfast
    key_secret: "{{ vault_dns_failover_update_key_secret }}"
    ttl_seconds: 3
    addresses: {east: [192.0.2.11], west: [198.51.100.11]}
    region: west
    epoch: 4
    moves: true
"""
RETURN = """
region: {type: str, returned: success, description: The region that is held now.}
epoch: {type: int, returned: success, description: Its epoch.}
behind: {type: list, returned: success, description: Those of others that do not answer it yet.}
taken_epoch: {type: int, returned: "when the epoch was refused", description: The one that is held; a move needs a higher one.}
"""

#: For one answer; and how often to look again when somebody was faster, or an answer got lost.
SECONDS, TRIES = 5.0, 4
FACES, TYPES = ("cp", "ap"), ("A", "AAAA")
#: What a face may not have beside its addresses, and they themselves; with a record of each kind that no face has.
NEVER = {"CNAME": "nobody.invalid.", "A": "0.0.0.0", "AAAA": "::"}
SPLIT = "put that one into the TXT record of epoch on the primary by hand, then run playbooks/names.yml."
Records = dict[str, dict[str, tuple[int, list[str]]]]


class Lost(Exception):
    """No answer came, so nobody knows what became of what was asked."""


class Primary:
    """The primary name server. What is asked of it is signed and goes over TCP; so is what it answers, or it does not count."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._where = f"{given['server']} (dns_failover_update_server)"
        self._server, self._port, self._zone = given["server"], given["port"], dns.name.from_text(given["zone"])
        self._domain, self._ttl = given["domain"], given["ttl_seconds"]
        self._key = dns.tsig.Key(given["key_name"], given["key_secret"], given["key_algorithm"])

    def _name(self, label: str) -> Any:
        return dns.name.from_text(f"{label}.{self._domain}")

    def _exchange(self, message: Any) -> Any:
        """The answer, whatever its code. Raises Refused, Lost."""
        message.use_tsig(self._key)
        try:
            answer = dns.query.tcp(message, self._server, timeout=SECONDS, port=self._port)
        except (OSError, EOFError, dns.exception.Timeout) as problem:
            raise Lost(f"{self._where} gives no answer on TCP port {self._port}: {str(problem) or type(problem).__name__}.") from None
        except dns.tsig.PeerBadKey:
            raise Refused(
                f"{self._where} does not know the key {self._key.name} with {self._key.algorithm} (dns_failover_update_key_name and "
                "dns_failover_update_key_algorithm): write them as its configuration does."
            ) from None
        except (dns.tsig.PeerBadSignature, dns.tsig.BadSignature):
            raise Refused(
                f"dns_failover_update_key_secret is not the secret that {self._where} has for this key. Correct it in the vault."
            ) from None
        except (dns.tsig.PeerBadTime, dns.tsig.BadTime):
            raise Refused(
                f"The clocks of {self._where} and of this host are more than {message.tsig[0].fudge} s apart, so no signature counts. "
                "Look at `chronyc tracking` on this host, and at that server's clock."
            ) from None
        except dns.exception.DNSException as problem:
            raise Refused(f"What {self._where} answered cannot be read: {problem}. Is it a name server?") from None
        if not answer.had_tsig and answer.rcode() == dns.rcode.NOERROR:
            raise Refused(f"{self._where} answers without a signature, so that anybody may have. Is it a server that knows TSIG?")
        return answer

    def _ask(self, label: str, kind: str) -> tuple[int, list[Any]]:
        """(TTL, records); no records where there are none."""
        question = dns.message.make_query(self._name(label), kind)
        question.flags &= ~dns.flags.RD
        answer = self._exchange(question)
        code = answer.rcode()
        if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) or not answer.flags & dns.flags.AA:
            said = dns.rcode.to_text(code) if code != dns.rcode.NOERROR else "an answer that is not its own"
            raise Refused(
                f"{self._where} has no zone for {question.question[0].name}: it says {said}. Create the zone there, or correct the address."
            )
        found = answer.get_rrset(answer.answer, self._name(label), question.question[0].rdclass, question.question[0].rdtype)
        return (found.ttl, list(found)) if found else (0, [])

    def held(self) -> Held | None:
        _, records = self._ask("epoch", "TXT")
        if not records:
            return None
        texts = [b"".join(record.strings).decode("ascii", "replace") for record in records]
        region, _, epoch = texts[0].partition(" ")
        if len(texts) != 1 or not region or not epoch.isdecimal() or len(records[0].strings) != 1:
            raise Refused(
                f'epoch.{self._domain} (TXT) on {self._where} is {texts}, and not one text like "east 4". Somebody wrote it by hand: '
                "write there the region that serves and its epoch (holdfast region status), or remove it and run playbooks/names.yml."
            )
        return region, int(epoch)

    def records(self) -> Records:
        """{cp, ap: {A, AAAA: (TTL, addresses)}}, as they are."""
        found: Records = {face: {} for face in FACES}
        for face in FACES:
            for kind in TYPES:
                ttl, records = self._ask(face, kind)
                found[face][kind] = (ttl, sorted(record.to_text() for record in records))
        return found

    def wanted(self, addresses: list[str]) -> Records:
        split = {"A": sorted(a for a in addresses if ":" not in a), "AAAA": sorted(a for a in addresses if ":" in a)}
        return {face: {kind: (self._ttl if split[kind] else 0, split[kind]) for kind in TYPES} for face in FACES}

    def update(self, held: Held | None, new: Held, addresses: list[str], changes: bool) -> bool:
        """One update: all of it, if ``held`` is what is held. False: it is not. Raises Refused, Lost."""
        message = dns.update.Update(self._zone)
        epoch = self._name("epoch")
        if held is None:
            message.absent(epoch, "TXT")
        else:
            message.present(epoch, "TXT", f'"{held[0]} {held[1]}"')
        if changes:
            for face in FACES:
                for kind in NEVER:
                    message.delete(self._name(face), kind)
                for address in addresses:
                    message.add(self._name(face), self._ttl, "AAAA" if ":" in address else "A", address)
            message.delete(epoch, "TXT")
            message.add(epoch, self._ttl, "TXT", f'"{new[0]} {new[1]}"')
        else:  # removes what is never there: that changes nothing, and the server refuses whoever may not
            for face in FACES:
                for kind, never in NEVER.items():
                    message.delete(self._name(face), kind, never)
            message.delete(epoch, "TXT", '"-"')
        code = self._exchange(message).rcode()
        if code in (dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN):
            return False
        if code == dns.rcode.NOERROR:
            return True
        cures = {
            dns.rcode.REFUSED: f"it must let the key {self._key.name} update A, AAAA, CNAME and TXT of cp, ap and epoch.{self._domain} "
            "(BIND: update-policy or allow-update)",
            dns.rcode.NOTAUTH: f"it is not the primary of {self._zone}: correct dns_failover_update_server or dns_failover_update_zone",
            dns.rcode.NOTZONE: f"the names are not in the zone {self._zone}: correct dns_failover_update_zone",
            dns.rcode.SERVFAIL: "look into its log; BIND must be able to write the zone's journal",
        }
        cure = cures.get(code, "look into its log")
        raise Refused(f"{self._where} did not take the update, and nothing was changed: {dns.rcode.to_text(code)}. The cure: {cure}.")


def apply(primary: Primary, given: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Raises Refused. What became of an update whose answer was lost is found out by reading again."""
    unsure, lost = False, ""
    for number in range(TRIES):
        time.sleep(0.3 * number)
        sends = False
        try:
            held, before = primary.held(), primary.records()
            new = next_held(held, given, "the primary", SPLIT)
            addresses = given["addresses"].get(new[0], [])
            if not addresses:
                raise Refused(
                    f"dns_failover_regions has no edge for region {new[0]}, which the names are to lead to. Add it, or move the names."
                )
            after = primary.wanted(addresses)
            changes = (held, before) != (new, after)
            sends = changes and not check_mode
            if primary.update(held, new, addresses, sends):
                # An update of before whose answer was lost counts as this run's change.
                return {"changed": changes or unsure, "region": new[0], "epoch": new[1], "diff": difference(held, before, new, after)}
        except Lost as problem:
            lost, unsure = str(problem), unsure or sends
    if unsure:
        raise Refused(f"{lost} It is not known whether it took the update. Mend the way to it; the same run again finds out and goes on.")
    if lost:
        raise Refused(f"{lost} Nothing was changed. Start it, or open the way from this host to it (TCP and UDP); then run this again.")
    raise Refused("Others move the names again and again at this moment, and nothing was changed. Agree who goes on, then run this again.")


def difference(held: Held | None, before: Records, new: Held, after: Records) -> dict[str, str]:
    def text(epoch: Held | None, records: Records) -> str:
        lines = [f"epoch TXT {epoch[0]} {epoch[1]}"] if epoch else []
        for face, kinds in records.items():
            lines += [f"{face} {ttl} {kind} {address}" for kind, (ttl, addresses) in kinds.items() for address in addresses]
        return "".join(f"{line}\n" for line in lines)

    return {"before": text(held, before), "after": text(new, after)}


def behind(others: list[str], port: int, domain: str, new: Held, seconds: float, sleep: Callable[[float], None] = time.sleep) -> list[str]:
    """Those that do not answer ``new`` (or a later epoch) within ``seconds``: they have not fetched the zone yet."""
    end, late = time.monotonic() + seconds, list(others)
    question = dns.message.make_query(f"epoch.{domain}", "TXT")
    while late:
        late = [other for other in late if _epoch_of(question, other, port) < new[1]]
        if not late or time.monotonic() >= end:
            break
        sleep(0.3)
    return late


def _epoch_of(question: Any, server: str, port: int) -> int:
    try:
        answer = dns.query.udp(question, server, timeout=1, port=port)
        return max((int(record.strings[0].split()[1]) for found in answer.answer for record in found), default=-1)
    except (OSError, EOFError, dns.exception.DNSException, ValueError, IndexError, AttributeError):
        return -1


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "server": {"type": "str", "required": True},
            "port": {"type": "int", "default": 53},
            "zone": {"type": "str", "required": True},
            "domain": {"type": "str", "required": True},
            "key_name": {"type": "str", "required": True, "no_log": False},
            "key_algorithm": {"type": "str", "default": "hmac-sha256", "no_log": False},
            "key_secret": {"type": "str", "required": True, "no_log": True},
            "ttl_seconds": {"type": "int", "required": True},
            "addresses": {"type": "dict", "required": True},
            "region": {"type": "str", "required": True},
            "epoch": {"type": "int", "required": True},
            "moves": {"type": "bool", "required": True},
            "known_region": {"type": "str", "default": ""},
            "known_epoch": {"type": "int", "default": -1},
            "others": {"type": "list", "elements": "str", "default": []},
            "wait_seconds": {"type": "float", "default": 10},
        },
        supports_check_mode=True,
    )
    if dns is None:
        module.fail_json(msg=missing_required_lib("dnspython") + " playbooks/names.yml installs python3-dnspython.")
    p = module.params
    try:
        result = apply(Primary(p), p, module.check_mode)
    except Taken as problem:
        module.fail_json(msg=str(problem), taken_epoch=problem.held)
    except Refused as problem:
        module.fail_json(msg=str(problem))
    late = []
    if result["changed"] and not module.check_mode:
        late = behind(p["others"], p["port"], p["domain"], (result["region"], result["epoch"]), p["wait_seconds"])
    if late:
        module.warn(
            f"{', '.join(late)} still answers what the names were before, {p['wait_seconds']:g} s after the primary took the change: look "
            "at its zone transfers (notify on the primary, its log). Clients that ask it are sent to the region that was left."
        )
    module.exit_json(**result, behind=late)


if __name__ == "__main__":
    main()
