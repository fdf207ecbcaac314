"""What is published must be true: OpenAPI against routes and errors, imports one way, scripts complete, the CLI."""

from __future__ import annotations

import ast
import io
import re
from pathlib import Path

import pytest

from holdfast import cli, scripts
from holdfast.errors import ALL_ERRORS, ServiceError
from holdfast.metrics import Metrics
from holdfast.openapi import document

PACKAGE = Path(scripts.__file__).parent
PURE = ("contract", "tags", "hlc", "registers", "multiprimary", "guard", "breaker", "sessions", "keys", "errors")


def test_every_error_is_listed_once() -> None:
    assert set(ALL_ERRORS) == set(ServiceError.__subclasses__())
    assert len({e.code for e in ALL_ERRORS}) == len(ALL_ERRORS)
    assert all(e.retry_after for e in ALL_ERRORS if e.status in (429, 503))


@pytest.mark.parametrize("mode", ["cp", "ap"])
def test_openapi_names_only_known_codes(mode: str) -> None:
    doc = document(mode)
    codes = {e.code: str(e.status) for e in ALL_ERRORS}
    for path in doc["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                named = re.findall(r"[a-z_]+", answer["description"]) if "Failure" in str(answer) else []
                assert all(codes[c] == status for c in named)


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_import_no_io(module: str) -> None:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
            assert node.level == 0 or node.module in PURE, f"{module} imports {node.module}"
    assert not found & {"flask", "redis", "socket", "time", "random", "secrets", "os", "logging"}


def test_only_link_imports_redis() -> None:
    users = [p.stem for p in PACKAGE.glob("*.py") if re.search(r"^(from|import) redis\b", p.read_text(), re.M)]
    assert users == ["link"]


def test_each_script_is_loaded_complete_and_has_its_shebang() -> None:
    for path in (PACKAGE / "lua").glob("[a-z]*.lua"):
        script = scripts.load(path.stem)
        assert script.source.startswith(b"#!lua")
        # Only what must work on a node that cannot write any more is declared as reading; replicas answer it too.
        reading = path.stem in ("region_compare_page", "region_compare_some")
        assert (b"no-writes" in script.source.split(b"\n")[0]) == reading
        assert b"-- include" not in script.source


def test_all_series_exist_from_the_start() -> None:
    metrics = Metrics("cp", ("db_g1", "db_g2"))
    text = metrics.exposition().decode()
    for operation in ("read", "write", "delete"):
        assert f'app_requests_total{{mode="cp",operation="{operation}",status="success"}} 0.0' in text
        assert f'app_request_latency_seconds_bucket{{le="0.5",mode="cp",operation="{operation}"}} 0.0' in text
    assert 'db_connection_failures_total{node="db_g2"} 0.0' in text
    assert 'status="outcome_unknown"' in text
    assert "_created" not in text


def test_hash_token(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("boss-token-00000001\n"))
    assert cli.main(["hash-token"]) == 0
    assert re.fullmatch(r"[0-9a-f]{64}\n", capsys.readouterr().out)
    monkeypatch.setattr("sys.stdin", io.StringIO("short"))
    assert cli.main(["hash-token"]) == 2


@pytest.mark.parametrize("command", ["serve", "replicate", "bootstrap"])
def test_bad_settings_stop_the_start_with_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("APP_MODE", "REGION", "NODES"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main([command]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "not set" in err
