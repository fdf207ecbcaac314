"""compose.yaml, its scripts and the README say the same things."""

from __future__ import annotations

import re
from pathlib import Path

APP = Path(__file__).resolve().parents[2]


def rules(text: str) -> list[str]:
    match = re.search(r"^user service on \S+ (.*?)(?:\n```|\nACL)", text, re.M | re.S)
    assert match
    return match[1].replace("\\\n", " ").split()


def test_the_acl_of_the_local_try_is_the_documented_one() -> None:
    documented = rules((APP / "README.md").read_text(encoding="utf-8"))
    assert "+evalsha" in documented
    assert rules((APP / "compose/redis/start-node.sh").read_text(encoding="utf-8")) == documented


def test_no_secret_reaches_a_containers_environment() -> None:
    text = (APP / "compose.yaml").read_text(encoding="utf-8")
    assert not re.search(r"\$\{?(SECRET_KEY|REDIS_PASSWORD|\w*_TOKEN)", text)
    assert text.count("<<: *hardened") == 2
    assert "read_only: true" in text


def test_every_secret_of_the_example_is_a_placeholder_the_script_asks_for() -> None:
    example = (APP / ".env.example").read_text(encoding="utf-8")
    script = (APP / "compose/make-secrets.sh").read_text(encoding="utf-8")
    for name in ("SECRET_KEY", "REDIS_PASSWORD", "READ_TOKEN", "WRITE_TOKEN", "ADMIN_TOKEN"):
        assert re.search(rf"^{name}=<.*>$", example, re.M)
        assert f"$(value {name})" in script


def test_the_lock_names_no_index_and_has_hashes() -> None:
    for name in ("requirements.txt", "requirements-build.txt"):
        lock = (APP / name).read_text(encoding="utf-8")
        assert "://" not in lock
        assert "--index" not in lock
        assert lock.count("==") <= lock.count("--hash=sha256:")
