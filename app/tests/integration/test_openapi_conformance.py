"""The live service against its own /openapi.json, by schemathesis: valid and invalid requests made from the contract.

Every answer must have a documented status, body, content type and headers; what the contract allows must be accepted,
what it forbids refused. A healthy service answers no 5xx at all, one without a majority only those of the contract.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import TOKENS, App, Cluster, wait_for

SEED = "1"  # the same requests every time; another one to look further


def schemathesis(where: str, directory: Path, examples: int, *more: str) -> tuple[int, int, str]:
    """(exit code, requests made, what it said). ``examples`` of each operation, besides those of the coverage phase.

    The token may write and is not an admin: nothing is forced open.
    """
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", where),
        *("-H", f"Authorization: Bearer {TOKENS['writer']}"),
        *("--seed", SEED, "-n", str(examples), "--no-shrink", "--phases", "examples,coverage,fuzzing"),
        *("--checks", "all", "--suppress-health-check", "too_slow", *more),
    ]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=600)
    made = re.search(r"(\d+) generated", done.stdout)
    return done.returncode, int(made[1]) if made else 0, done.stdout + done.stderr


def assert_unharmed(app: App) -> None:
    assert app.process.poll() is None
    broken = [e for e in app.entries() if e["event"] in ("UNEXPECTED_ERROR", "SERVER_ERROR", "LINK_ERROR")]
    assert not broken


@pytest.mark.parametrize("mode", ["cp", "ap"])
def test_a_healthy_service_keeps_its_contract(shared: Cluster, tmp_path: Path, mode: str) -> None:
    # A deadline that a busy machine does not break: here any 5xx is a failure.
    app = shared.run("serve", mode, RATE_LIMITS="unlimited", NETWORK_TIMEOUT_SEC="10")
    code, made, said = schemathesis(f"http://127.0.0.1:{app.port}/openapi.json", tmp_path, 60)
    assert code == 0, said
    assert made > 200, said
    assert_unharmed(app)


@pytest.mark.parametrize("mode", ["cp", "ap"])
def test_a_service_without_nodes_answers_only_errors_of_the_contract(
    cluster: Cluster, tmp_path: Path, mode: str
) -> None:
    app = cluster.run("serve", mode, RATE_LIMITS="unlimited")
    for node in cluster.nodes.values():
        node.kill()
    wait_for("not ready", lambda: not app.ready())
    wait_for("refused at once", lambda: app.write("k", "v").seconds < 0.2)
    where = f"http://127.0.0.1:{app.port}/openapi.json"
    # Here 5xx are right, if they are in the contract; and nothing can be accepted.
    off = ("--exclude-checks", "not_a_server_error,positive_data_acceptance")
    code, made, said = schemathesis(where, tmp_path, 20, *off)
    assert code == 0, said
    assert made > 100, said
    assert_unharmed(app)
    assert app.metric(f'app_requests_total{{mode="{mode}",operation="write",status="success"}}') == 0


@pytest.mark.parametrize("lie", ["body", "status", "acceptance"])
def test_negative_control_a_contract_that_is_not_kept_is_noticed(shared: Cluster, tmp_path: Path, lie: str) -> None:
    app = shared.run("serve", "cp", RATE_LIMITS="unlimited")
    told = app.request("GET", "/openapi.json").json
    if lie == "body":
        told["components"]["schemas"]["Written"]["required"].append("colour")
    elif lie == "status":
        for operation in told["paths"]["/read/{key}"].values():
            del operation["responses"]["404"]
    else:
        told["paths"]["/read/{key}"]["get"]["parameters"][0]["schema"] = {"type": "string", "pattern": "^\\u0007+$"}
    (tmp_path / "lie.json").write_text(json.dumps(told))
    code, _made, said = schemathesis("lie.json", tmp_path, 5, "--url", f"http://127.0.0.1:{app.port}")
    assert code == 1, said
    assert "FAILURES" in said
