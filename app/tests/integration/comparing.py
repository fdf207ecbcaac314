"""The commands `holdfast region compare` and `replay`, run as a person would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster import TOKENS, App
from regions import Region

SOURCE = Path(__file__).resolve().parents[2] / "src"


def compare(region: Region, out: Path, *more: str) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    code, told, words = region.region("compare", "--out", str(out), *more)
    lines = [json.loads(text) for text in out.read_text().splitlines()] if out.exists() else []
    assert code in (0, 3, 4), words
    assert lines[-1]["type"] == "summary"
    assert lines[-1]["lines"] == len(lines) - 1
    return code, told, lines[:-1]


def replay(
    file: Path, *more: str, token: str = "boss", launch: tuple[str, ...] = ("-m", "holdfast"), **urls: App
) -> tuple[int, dict[str, Any], str]:
    secret = file.parent / f"token-{token}"
    secret.write_text(TOKENS.get(token, token) + "\n")
    given = [word for face, app in urls.items() for word in (f"--url-{face}", f"http://127.0.0.1:{app.port}")]
    command = [sys.executable, *launch, "region", "replay", str(file), "--token-file", str(secret)]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([*command, *given, *more], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode != 1, done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr
