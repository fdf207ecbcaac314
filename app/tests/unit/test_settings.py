"""Every bad or missing setting stops the start with one line that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast import settings
from holdfast.auth import Tokens, hash_token, require
from holdfast.errors import Forbidden, SettingsError, Unauthorized

TOKEN = {"name": "ops", "role": "admin", "sha256": "a" * 64}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "secret_key").write_text("0123456789abcdef" * 2 + "\n")
    (tmp_path / "redis_password").write_text("0123456789abcdef\n")
    (tmp_path / "api_tokens").write_text(json.dumps([TOKEN]))
    return {
        "APP_MODE": "ap",
        "REGION": "lab",
        "ZONE": "z1",
        "NODES": "db_g1=h1:6379, db_g2=h2:6379",
        "LOCAL_NODE": "db_g2",
        "SECRETS_DIR": str(tmp_path),
        "REDIS_TLS": "off",
    }


def test_defaults(env: dict[str, str]) -> None:
    loaded = settings.load(env)
    assert str(loaded.listen) == "0.0.0.0:8000"
    assert loaded.node_names == ("db_g1", "db_g2")
    assert loaded.secret_key == "0123456789abcdef" * 2
    assert loaded.max_value_bytes == 1048576
    assert not loaded.audit_pseudonymise
    assert loaded.peers == {}


def test_the_other_regions_nodes_bear_the_same_names(env: dict[str, str]) -> None:
    peers = settings.load(env | {"PEER_NODES": "db_g2=o2:6379,db_g1=o1:6379"}).peers
    assert {n: str(a) for n, a in peers.items()} == {"db_g1": "o1:6379", "db_g2": "o2:6379"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("APP_MODE", ""),
        ("APP_MODE", "both"),
        ("REGION", ""),
        ("ZONE", "a b"),
        ("NODES", ""),
        ("NODES", "db_g1"),
        ("NODES", "db_g1=h:1,db_g1=h:2"),
        ("NODES", "db_g1=h:1,db_g2=h:1"),
        ("NODES", "db_g1=h:99999"),
        ("PEER_NODES", "db_g1"),
        ("PEER_NODES", "db_g1=o1:6379"),
        ("PEER_NODES", "db_g1=o1:6379,db_g3=o2:6379"),
        ("PEER_NODES", "db_g1=o1:6379,db_g2=o1:6379"),
        ("PEER_NODES", "db_g1=o1:6379,db_g2=h1:6379"),
        ("LOCAL_NODE", ""),
        ("LOCAL_NODE", "db_g9"),
        ("LISTEN", "8000"),
        ("NETWORK_TIMEOUT_SEC", "soon"),
        ("NETWORK_TIMEOUT_SEC", "0"),
        ("NETWORK_TIMEOUT_SEC", "nan"),
        ("WORKERS", "1.5"),
        ("MAX_VALUE_BYTES", "-1"),
        ("LOG_LEVEL", "LOUD"),
        ("RATE_LIMITS", "many"),
        ("REDIS_TLS", "yes"),
        ("REDIS_TLS", "on"),
        ("AUDIT_PSEUDONYMISE", "1"),
    ],
)
def test_a_bad_setting_is_named(env: dict[str, str], name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.load(env | {name: value})
    expected = "REDIS_TLS_CA_FILE" if (name, value) == ("REDIS_TLS", "on") else name
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("secret", ["secret_key", "redis_password", "api_tokens"])
@pytest.mark.parametrize("content", [None, "", "  \n", "changeme", "<generate me>", "Secret", "password1", "x"])
def test_a_missing_or_placeholder_secret_is_named_and_not_shown(
    env: dict[str, str], secret: str, content: str | None
) -> None:
    path = Path(env["SECRETS_DIR"]) / secret
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError) as caught:
        settings.load(env)
    assert secret in str(caught.value)
    assert not content or len(content.strip()) < 5 or content not in str(caught.value).replace(secret, "")


@pytest.mark.parametrize(
    "tokens",
    [
        "{}",
        "[]",
        "[1]",
        json.dumps([{**TOKEN, "role": "root"}]),
        json.dumps([{**TOKEN, "sha256": "A" * 64}]),
        json.dumps([{**TOKEN, "name": ""}]),
        json.dumps([TOKEN, TOKEN]),
        json.dumps([{**TOKEN, "rate_limit": "fast"}]),
        json.dumps([{**TOKEN, "tokne": 1}]),
    ],
)
def test_bad_tokens(tokens: str) -> None:
    with pytest.raises(SettingsError, match="api_tokens"):
        settings.parse_tokens(tokens)


def test_roles_nest() -> None:
    digest = hash_token("the-token-of-a-writer")
    tokens = Tokens(settings.parse_tokens(json.dumps([{"name": "w", "role": "write", "sha256": digest}])))
    writer = tokens.identify("Bearer the-token-of-a-writer")
    assert require(writer, "read").name == "w"
    assert require(writer, "write").name == "w"
    with pytest.raises(Forbidden):
        require(writer, "admin")
    for header in (None, "", "Bearer", "Bearer ", "Basic the-token-of-a-writer", "Bearer x", "Bearer " + "y" * 9999):
        with pytest.raises(Unauthorized):
            require(tokens.identify(header), "read")
