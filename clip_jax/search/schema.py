"""The HTTP API in OpenAPI's words, and its limits."""

from typing import Any

TEXT = 500  # characters
PICTURE = 12 * 2**20  # bytes
BODY = PICTURE * 4 // 3 + 8192  # bytes of JSON with the picture in base64

_RESULT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["number", "cosine", "name", "width", "height"],
    "properties": {
        "number": {"type": "integer"},
        "cosine": {"type": "number"},
        "name": {"type": "string", "maxLength": 300},
        "width": {"type": "integer", "minimum": 1},
        "height": {"type": "integer", "minimum": 1},
    },
}
ANSWER: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["models", "both", "overlap"],
    "properties": {
        "models": {
            "type": "array",
            "minItems": 1,
            "maxItems": 2,
            "items": {
                "type": "object",
                "required": ["model", "results"],
                "properties": {
                    "model": {"type": "string"},
                    "results": {"type": "array", "maxItems": 20, "items": _RESULT},
                },
            },
        },
        "both": {"type": "array", "items": {"type": "integer"}},
        "overlap": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    },
}
ERROR: dict[str, Any] = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
QUERY: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "minProperties": 1,
    "properties": {
        "text": {"type": "string", "maxLength": TEXT},
        "picture": {"type": "string", "contentEncoding": "base64", "maxLength": BODY},
        "like": {"type": "integer", "minimum": 1},
    },
}


def _json(schema: dict[str, Any], said: str) -> dict[str, Any]:
    return {"description": said, "content": {"application/json": {"schema": schema}}}


OPENAPI: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "clip-jax search", "version": "1"},
    "paths": {
        "/api/search": {
            "post": {
                "requestBody": {"required": True, **_json(QUERY, "Words, a picture, the number of one, or several")},
                "responses": {
                    "200": _json(ANSWER, "The nearest 20, best first, by each model"),
                    "400": _json(ERROR, "A query that cannot be read"),
                    "403": _json(ERROR, "A Host header that names another machine"),
                    "413": _json(ERROR, f"A body of more than {BODY} bytes"),
                    "429": _json(ERROR, "Too many queries a second from one address"),
                    "503": _json(ERROR, "Too many queries at once"),
                },
            }
        },
        "/thumbnails/{number}": {
            "get": {
                "parameters": [{"name": "number", "in": "path", "required": True, "schema": {"type": "integer"}}],
                "responses": {
                    "200": {"description": "JPEG", "content": {"image/jpeg": {}}},
                    "404": _json(ERROR, "No such picture"),
                },
            }
        },
    },
}
