"""Addresses of databases, as they may be shown."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

__all__ = ["without_password"]

_PRIVATE: Final = frozenset({"user", "password", "passfile", "sslpassword", "sslkey"})


def without_password(url: str) -> str:
    """Return a database's URL as it may be shown and kept: without user and password.

    Examples
    --------
    >>> without_password("postgresql://ada:s3cret@db.example.org:5432/mlbench?sslmode=require&password=s3cret")
    'postgresql://db.example.org:5432/mlbench?sslmode=require'
    >>> without_password("sqlite:////data/store/catalog.sqlite")
    'sqlite:////data/store/catalog.sqlite'
    """
    if url.startswith("sqlite"):
        return url
    parts = urlsplit(url)
    scheme = "postgresql" if parts.scheme.startswith("postgres") else parts.scheme
    asked = [(name, value) for name, value in parse_qsl(parts.query) if name not in _PRIVATE]
    shown = f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return f"{shown}?{urlencode(asked, safe='/')}" if asked else shown
