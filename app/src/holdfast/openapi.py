"""GET /openapi.json: the contract, machine-readable. A test keeps it equal to the routes and the error table."""

from __future__ import annotations

from typing import Any

from . import __version__
from .errors import ALL_ERRORS

_KEY = {
    "name": "key",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 512, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]+$"},
    "description": "1 to 512 bytes of UTF-8 without control characters; a slash is written %2F",
}
_SESSION = {
    "name": "X-Session-Token",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "AP: the token of an earlier write",
}
_COOKIE = {
    "name": "HOLDFAST_SESSION",
    "in": "cookie",
    "required": False,
    "schema": {"type": "string"},
    "description": "AP: the session a write's Set-Cookie began; not used by clients that send X-Session-Token",
}


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required or list(properties)}


def _content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _errors(*codes: str) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for error in ALL_ERRORS:
        if error.code in codes:
            by_status.setdefault(error.status, []).append(error.code)
    answers = {}
    for status, names in by_status.items():
        answer: dict[str, Any] = {"description": ", ".join(names), "content": _content("Failure")}
        if status in (429, 503):
            header = {"schema": {"type": "integer"}, "description": "seconds", "required": True}
            answer["headers"] = {"Retry-After": header}
        answers[str(status)] = answer
    return answers


def document(mode: str) -> dict[str, Any]:
    down = ("unavailable", "fenced", *(("no_quorum",) if mode == "cp" else ()))
    common = ("bad_key", "bad_request", "unauthorized", "forbidden", "rate_limited", "not_found", "internal", *down)
    writing = (*common, "outcome_unknown", "bad_value", "too_large")
    administering = ("bad_request", "unauthorized", "forbidden", "not_found", "too_large", "rate_limited", "internal")
    secured: list[dict[str, list[str]]] = [{"bearer": []}]
    session = [_SESSION, _COOKIE] if mode == "ap" else []

    def write(summary: str, parameters: list[Any]) -> dict[str, Any]:
        return {
            "summary": summary,
            "security": secured,
            "parameters": [*parameters, *session],
            "responses": {"200": {"description": "done", "content": _content("Written")}, **_errors(*writing)},
        }

    value = {"name": "value", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    body = {
        "required": False,
        "description": "none: the empty value",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
    read = {
        "summary": "Read a key",
        "security": secured,
        "parameters": [_KEY, *session],
        "responses": {"200": {"description": "the value", "content": _content("Value")}, **_errors(*common)},
    }
    plain = {"200": {"description": "ok", "content": {"application/json": {"schema": {"type": "object"}}}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Holdfast ({mode.upper()})", "version": __version__},
        "paths": {
            "/write/{key}/{value}": {"post": write("Write a short value", [_KEY, value])},
            "/write/{key}": {
                "post": {**write("Write the body, UTF-8 text", [_KEY]), "requestBody": body},
                "delete": write("Delete a key", [_KEY]),
            },
            "/read/{key}": {"get": read},
            "/health": {
                "get": {
                    "summary": "Ready: can this instance keep its promise now",
                    "responses": {
                        **plain,
                        "503": {"description": "not ready; `reason` says why", "content": _content("NotReady")},
                    },
                }
            },
            "/health/live": {"get": {"summary": "The process runs", "responses": plain}},
            "/metrics": {
                "get": {
                    "summary": "Prometheus",
                    "responses": {
                        "200": {"description": "metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}
                    },
                }
            },
            "/circuit-breaker": {
                "get": {
                    "summary": "Breakers: per node the worst state of all workers of this instance, and each worker's",
                    "responses": {"200": {"description": "ok", "content": _content("Breakers")}},
                }
            },
            "/circuit-breaker/{node}": {
                "post": {
                    "summary": "Force a breaker in all workers of this instance, for a limited time (role admin)",
                    "security": secured,
                    "parameters": [{"name": "node", "in": "path", "required": True, "schema": {"type": "string"}}],
                    "requestBody": {"required": True, "content": _content("Force")},
                    "responses": {
                        "200": {"description": "the breaker now", "content": _content("Breaker")},
                        **_errors(*administering),
                    },
                }
            },
            "/openapi.json": {
                "get": {
                    "summary": "This document",
                    "security": secured,
                    "responses": {**plain, **_errors("unauthorized", "forbidden", "rate_limited")},
                }
            },
        },
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(mode),
        },
    }


def _breaker_schemas(mode: str) -> dict[str, Any]:
    text, none = {"type": "string"}, {"type": ["string", "null"]}
    count = {"type": "integer"}
    own = {
        "state": {"enum": ["CLOSED", "HALF_OPEN", "OPEN"]},
        "last_failure": none,
        "since": text,
        "next_probe": none,
        "window": _object({"calls": count, "failures": count}),
    }
    forced = _object({"state": {"enum": ["OPEN", "CLOSED"]}, "until": text}) | {"type": ["object", "null"]}
    workers = {"type": "array", "items": _object({"pid": count, **own})}
    node = {**own, "guard": text, "forced": forced, "workers": workers}
    about = {"mode": {"const": mode}, "zone": text}
    seconds = {"type": "integer", "minimum": 1, "maximum": 3600, "description": "not for AUTO"}
    force = _object({"state": {"enum": ["OPEN", "CLOSED", "AUTO"]}, "seconds": seconds}, ["state"])
    nodes = {"type": "object", "additionalProperties": _object(node)}
    return {
        "Breakers": _object({**about, "nodes": nodes}),
        "Breaker": _object({**about, "node": text, **node}),
        "Force": {**force, "additionalProperties": False},
    }


def _schemas(mode: str) -> dict[str, Any]:
    text, flag = {"type": "string"}, {"type": "boolean"}
    staleness = {"staleness_ms": {"type": ["integer", "null"]}, "stale": flag, "source": text}
    head = {"mode": {"const": mode}, "key": text, "version": text}
    value = _object(
        {
            "status": {"const": "SUCCESS"},
            **head,
            "value": text,
            **staleness,
        }
    )
    if mode == "ap":
        value["properties"]["read_your_writes"] = flag
    codes = [e.code for e in ALL_ERRORS]
    failure = _object(
        {
            "status": {"const": "FAILURE"},
            "mode": {"const": mode},
            "error": _object({"code": {"enum": codes}, "message": text}),
        }
    )
    if mode == "ap":
        failure["properties"] |= {"read_your_writes": flag, **staleness}
    return {
        "Written": _object({"status": {"const": "SUCCESS"}, **head, "acks": {"type": "array", "items": text}}),
        "Value": value,
        "Failure": failure,
        **_breaker_schemas(mode),
        "NotReady": _object(
            {
                "status": {"const": "NOT_READY"},
                "mode": {"const": mode},
                "zone": text,
                "reason": {
                    "enum": [
                        "draining",
                        "log_blocked",
                        "fenced",
                        "two_regions",
                        "standby",
                        "unconfirmed",
                        "no_quorum" if mode == "cp" else "unavailable",
                    ]
                },
            }
        ),
    }
