"""GET /openapi.json: the contract, machine-readable. A test keeps it equal to the routes and the error table."""

from __future__ import annotations

from typing import Any

from . import __version__
from .errors import ALL_ERRORS

_KEY = {
    "name": "key",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 512},
    "description": "1 to 512 bytes of UTF-8 without control characters; a slash is written %2F",
}
_SESSION = {
    "name": "X-Session-Token",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "AP: the token of an earlier write",
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
            answer["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
        answers[str(status)] = answer
    return answers


def document(mode: str) -> dict[str, Any]:
    down = ("no_quorum", "fenced") if mode == "cp" else ("unavailable", "fenced")
    common = ("bad_key", "bad_request", "unauthorized", "forbidden", "rate_limited", "not_found", "internal", *down)
    writing = (*common, "outcome_unknown", "bad_value", "too_large")
    secured: list[dict[str, list[str]]] = [{"bearer": []}]
    session = [_SESSION] if mode == "ap" else []

    def write(summary: str, parameters: list[Any]) -> dict[str, Any]:
        return {
            "summary": summary,
            "security": secured,
            "parameters": [*parameters, *session],
            "responses": {"200": {"description": "done", "content": _content("Written")}, **_errors(*writing)},
        }

    value = {"name": "value", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    body = {"required": True, "content": {"text/plain": {"schema": {"type": "string"}}}}
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
            "/circuit-breaker": {"get": {"summary": "Breakers, per node", "responses": plain}},
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


def _schemas(mode: str) -> dict[str, Any]:
    text, flag = {"type": "string"}, {"type": "boolean"}
    head = {"mode": {"const": mode}, "key": text, "version": text}
    value = _object(
        {
            "status": {"const": "SUCCESS"},
            **head,
            "value": text,
            "staleness_ms": {"type": ["integer", "null"]},
            "stale": flag,
            "source": text,
        }
    )
    if mode == "ap":
        value["properties"]["read_your_writes"] = flag
    codes = [e.code for e in ALL_ERRORS]
    return {
        "Written": _object({"status": {"const": "SUCCESS"}, **head, "acks": {"type": "array", "items": text}}),
        "Value": value,
        "Failure": _object(
            {
                "status": {"const": "FAILURE"},
                "mode": {"const": mode},
                "error": _object({"code": {"enum": codes}, "message": text}),
            }
        ),
        "NotReady": _object(
            {
                "status": {"const": "NOT_READY"},
                "mode": {"const": mode},
                "zone": text,
                "reason": {"enum": ["draining", "fenced", "no_quorum" if mode == "cp" else "unavailable"]},
            }
        ),
    }
