"""Load by wrk: the same generator, connections and script for everything that is compared."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 64
KEYS = 1000
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}

#: Requests are made once; a thread walks through them. ``pause`` (ms) is thought time between two of a connection.
_SCRIPT = """
local requests, at = {}, math.random(1, %(keys)d)
function init(args)
  for i = 1, %(keys)d do
%(make)s
  end
end
function request()
  at = at %% #requests + 1
  return requests[at]
end
%(delay)s
function done(summary, latency, requests)
  io.write(string.format("RESULT {\\"requests\\":%%d,\\"micros\\":%%d,\\"errors\\":%%d,\\"p50\\":%%f,\\"p99\\":%%f}\\n",
    summary.requests, summary.duration,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.timeout, latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""


@dataclass(frozen=True)
class Requests:
    """What is sent: ``path`` and ``body`` may hold KEY, which becomes one of KEYS names (base64 of it: KEY64)."""

    method: str
    path: str
    body: str | None
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Measured:
    """``p50`` and ``p99`` in ms. ``errors``: answers that were not 2xx or 3xx, and connections that broke."""

    rate: float
    p50: float
    p99: float
    errors: int


def run(
    url: str, what: Requests | tuple[Requests, ...], seconds: int, directory: Path, pause_ms: float = 0.0
) -> Measured:
    """One run of wrk. With ``pause_ms`` a connection waits that long (0 to twice, at random) before it asks again.
    Of several requests each key gets one after the other, in equal shares."""
    script = directory / "load.lua"
    script.write_text(_script(what if isinstance(what, tuple) else (what,), pause_ms))
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)  # noqa: S603
    found = re.search(r"^RESULT (\{.*\})$", done.stdout, re.M)
    if found is None:
        raise RuntimeError(f"wrk gave no result for {url}: {done.stdout} {done.stderr}")
    result = json.loads(found[1])
    return Measured(result["requests"] / result["micros"] * 1e6, result["p50"], result["p99"], result["errors"])


def _script(what: tuple[Requests, ...], pause_ms: float) -> str:
    make = "\n".join(f"    requests[#requests + 1] = {_formatted(one)}" for one in what)
    # wrk takes whole milliseconds, so short pauses are drawn: 0.4 ms is 1 ms two times in five.
    top = int(2 * pause_ms * 1000)
    delay = f"function delay()\n  return math.floor(math.random(0, {top}) / 1000 + math.random())\nend" if top else ""
    return _BASE64 + _SCRIPT % {"keys": KEYS, "make": make, "delay": delay}


def _formatted(what: Requests) -> str:
    headers = ", ".join(f"[{_text(n)}] = {_text(v)}" for n, v in what.headers.items())
    body = "nil" if what.body is None else _filled(what.body)
    return f"wrk.format({_text(what.method)}, {_filled(what.path)}, {{['Host'] = 'x', {headers}}}, {body})"


def _text(text: str) -> str:
    return json.dumps(text)


def _filled(text: str) -> str:
    """A Lua expression: ``text`` with KEY64 and KEY replaced by this request's key."""
    parts = re.split(r"(KEY64|KEY)", text)
    names = {"KEY64": "base64('bench-' .. i)", "KEY": "'bench-' .. i"}
    return " .. ".join(names.get(p, _text(p)) for p in parts if p) or '""'


_BASE64 = """
local letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
function base64(text)
  local out = {}
  for at = 1, #text, 3 do
    local a, b, c = text:byte(at, at + 2)
    local n = a * 65536 + (b or 0) * 256 + (c or 0)
    for i, shift in ipairs({262144, 4096, 64, 1}) do
      local v = math.floor(n / shift) % 64 + 1
      out[#out + 1] = ((i == 3 and not b) or (i == 4 and not c)) and '=' or letters:sub(v, v)
    end
  end
  return table.concat(out)
end
"""
