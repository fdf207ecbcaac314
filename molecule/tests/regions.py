"""What tests of the two regions need: a runbook's run with its record, its judgement, and what a region says of itself."""

import json
import subprocess
import time

from clients import ROOT, play

EVIDENCE = ROOT / ".lab" / "evidence"
STALLED = "not measured: the probe itself stalled"
#: Excused only where the client stalled.
KNOWN = ("the runbook failed in the task: Verify that what the client saw", STALLED)
REGION = ["docker", "exec", "app_cp_1", "holdfast", "region"]


def runbook(name: str, *arguments: str, **variables: object) -> tuple[subprocess.CompletedProcess[str], dict]:
    """Run one, and what its record says."""
    before = set(EVIDENCE.glob(f"*-{name}"))
    done = play(f"runbooks/{name}.yml", *arguments, variables={"reason": "a test of the lab", **variables})
    made = sorted(set(EVIDENCE.glob(f"*-{name}")) - before)
    return done, json.loads((made[-1] / "record.json").read_text()) if made else {}


def judge(done: subprocess.CompletedProcess[str], record: dict) -> bool:
    """Whether the drill was measured. It passed, but for a client that stood still on a busy machine, which the drill's page shows."""
    print({name: record.get(name) for name in ("verdict", "reasons", "rto_seconds", "rpo_seconds", "lost_acked_writes", "refused_seconds")})
    held = done.returncode == 0 and record["verdict"] == "passed"
    assert not unexcused(record["reasons"], held), f"{record['reasons']}\n{done.stdout[-4000:]}"
    return record["rto_seconds"] is not None


def unexcused(reasons: list[str], held: bool) -> list[str]:
    """What speaks against a drill. Nothing does if it held, or if its client stood still and nothing else is named."""
    others = [reason for reason in reasons if not reason.startswith(KNOWN)]
    stalled = any(reason.startswith(STALLED) for reason in reasons)
    return others or ([] if held or stalled else [*reasons, "it did not hold, and no stall of the client says why"])


def start_hosts(lab) -> None:
    subprocess.run([ROOT / "bin" / "lab", "create"], check=True, capture_output=True)


def region_status(lab, name: str) -> dict:
    return json.loads(lab.host(name).check_output(" ".join([*REGION, "status"])))


def health(lab, url: str) -> str:
    """The reason for which an edge is not ready, or `ready`."""
    answer = lab.client(None).get(f"{url}/health", timeout=5)
    return "ready" if answer.status_code == 200 else answer.json()["reason"]


def until(what: str, seconds: float, holds) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.3)


def west(lab, mode: str) -> str:
    return f"https://{lab.hosts['lab-dr1']['address']}:{ {'cp': 5001, 'ap': 5002}[mode] }"
