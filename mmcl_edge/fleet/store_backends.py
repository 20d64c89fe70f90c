"""Opening an object store by its URL: which obstore backend, with which limits, and what the URL looks like in print.

1. A plain path is a folder; ``file://`` says the same. A folder is made only when ``create`` asks for it.
2. ``http`` and ``https`` are web servers: any can be read; those that take conditional PUT can be written.
3. ``s3``, ``gs`` and ``az`` read their credentials from the environment, as the vendors' own tools name them.
4. ``memory://name`` lives in this process: for tests and simulations.
5. What is printed of a URL has neither a user name, nor a password, nor a query.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from mmcl_edge.errors import StoreError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CLOUDS = {"s3": "s3", "s3a": "s3", "gs": "gs", "az": "az", "azure": "az", "abfs": "az", "abfss": "az", "adl": "az"}
ALLOW_HTTP = ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
"""Environment variables that allow http instead of https, for servers of one's own."""
CONNECT_TIMEOUT = timedelta(seconds=10)
READ_TIMEOUT = timedelta(seconds=30)
REQUEST_TIMEOUT = timedelta(minutes=30)
"""A whole object, over the slowest line that is worth waiting for."""

_memory: dict[str, Any] = {}


@dataclass(frozen=True, eq=False)
class Backend:
    """An opened backend.

    Attributes:
        kind: ``folder``, ``http``, ``s3``, ``gs``, ``az`` or ``memory``.
        shown: the URL without secrets.
        store: obstore's object.
        folder: of ``folder`` alone.
        address: of ``http`` alone: the URL as given; may hold a password, never printed.
    """

    kind: str
    shown: str
    store: ObjectStore
    folder: Path | None = None
    address: str = field(default="", repr=False)

    def with_headers(self, headers: dict[str, str]) -> ObjectStore:
        """The same web server, with ``headers`` in every request: how a condition is put to it."""
        return _http(self.address, headers)


def without_secrets(url: str) -> str:
    """``url`` as it may be printed: no user, no password, no query.

    >>> without_secrets("https://user:password@example.org/fleet?sig=abc")
    'https://example.org/fleet'
    """
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def open_backend(url: str, *, create: bool = False) -> Backend:
    """Open what ``url`` names; no request is made yet.

    Raises:
        StoreError: the URL names no store that this release knows, or its folder does not exist.
    """
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme in ("", "file"):
        return _folder(url, create)
    if scheme == "memory":
        return _in_memory(url)
    if scheme in ("http", "https"):
        return Backend("http", without_secrets(url), _guarded(url, lambda: _http(url, {})), address=url)
    if scheme in CLOUDS:
        return Backend(CLOUDS[scheme], without_secrets(url), _guarded(url, lambda: _cloud(url)))
    raise StoreError(
        f"Expected the address of a store (a folder, file://, http://, https://, s3://, gs:// or az://), "
        f"but {without_secrets(url)!r} begins with {scheme!r}; correct it."
    )


def _folder(url: str, create: bool) -> Backend:
    from obstore.store import LocalStore

    parts = urlsplit(url) if "://" in url else None
    if parts is not None and parts.netloc not in ("", "localhost"):
        raise StoreError(f"Expected file:/// and an absolute path, but found {without_secrets(url)!r}; add a slash.")
    if not url or (parts is not None and not parts.path):
        raise StoreError("Expected the folder of a store, but the path is empty; name one.")
    path = Path(unquote(parts.path) if parts is not None else url).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise StoreError(f"Expected the folder of a store at {path}, but that is a file; choose another.")
    if not create and not path.is_dir():
        raise StoreError(
            f"The store {path} is unreachable: there is no such folder; mount it, or correct the path "
            "(mmcl-edge fleet init makes a new one)."
        )
    if create:
        path.mkdir(parents=True, exist_ok=True)
    return Backend("folder", str(path), LocalStore(path, automatic_cleanup=False), folder=path)


def _in_memory(url: str) -> Backend:
    from obstore.store import MemoryStore

    return Backend("memory", url, _memory.setdefault(url, MemoryStore()))


def _options(headers: dict[str, str]) -> dict[str, Any]:
    return {
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": READ_TIMEOUT,
        "timeout": REQUEST_TIMEOUT,
        **({"default_headers": headers} if headers else {}),
    }


_ONCE: Any = {"max_retries": 0, "retry_timeout": READ_TIMEOUT}
"""``Store`` does the retrying, so that there is one place that counts."""


def _http(url: str, headers: dict[str, str]) -> ObjectStore:
    from obstore.store import HTTPStore

    options: Any = {**_options(headers), "allow_http": True}
    return HTTPStore(url, client_options=options, retry_config=_ONCE)


def _cloud(url: str) -> ObjectStore:
    from obstore.store import from_url

    options: Any = {**_options({}), "allow_http": any(_is_set(name) for name in ALLOW_HTTP)}
    return from_url(url, client_options=options, retry_config=_ONCE)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on")


def _guarded(url: str, make: Any) -> Any:
    from obstore.exceptions import BaseError

    try:
        return make()
    except (BaseError, ValueError) as error:
        reason = str(error).partition("\n")[0].rpartition("error: ")[2]
        reason = "it is not a well-formed address" if without_secrets(url) != url or "URL" in reason else reason
    raise StoreError(
        f"The store {without_secrets(url)} cannot be opened: {reason}; correct the address, or set the "
        "environment variables that its vendor names for account and region."
    )
