"""Where a clip on the web is: a URL that can be asked for, followed and shown."""

import base64
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Self
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from encoder.common.console import printable
from encoder.common.errors import SettingsError

CONNECTIONS = {"http": HTTPConnection, "https": HTTPSConnection}
HEADERS = {"User-Agent": "nervcast", "Accept-Encoding": "identity", "Connection": "close"}
HOST = re.compile("[a-z0-9._:%-]+")
NAMELESS = "clip"
"""Name of a clip whose URL has none."""


@dataclass(frozen=True)
class Address:
    """A URL and who asks for it."""

    parts: SplitResult
    """The URL, in ASCII and without a user."""
    authorization: str | None
    """Header that says who asks, for this server alone."""

    @classmethod
    def parse(cls, url: str, *, base: str = "") -> Self:
        """Read a URL; raises SettingsError, which shows nothing of it but its scheme: there may be a password."""
        try:
            parts = urlsplit(urljoin(base, url))
            host = (parts.hostname or "").encode("idna").decode().lower()
            port = "" if parts.port is None else f":{parts.port}"
            path, query = (
                quote(part, safe=string.punctuation) for part in (parts.path or "/", parts.query)
            )
            authorization = _basic(parts.netloc.rpartition("@")[0])
        except ValueError:
            raise SettingsError(
                "a URL must be like https://host/clip.nerv, got a malformed one"
            ) from None
        if parts.scheme not in CONNECTIONS:
            raise SettingsError(f"a URL must start with http:// or https://, got {parts.scheme}:")
        if not HOST.fullmatch(host):
            raise SettingsError(
                "a URL must be like https://host/clip.nerv, got one without a valid host"
            )
        netloc = (f"[{host}]" if ":" in host else host) + port
        return cls(SplitResult(parts.scheme, netloc, path, query, ""), authorization)

    def redirect(self, location: str) -> "Address":
        """Return where a server sends us on to; raises SettingsError. Another server is not told who asks."""
        # Headers are read as Latin-1, whatever they are.
        target = quote(location, safe=string.punctuation, encoding="latin-1")
        address = Address.parse(target, base=self.parts.geturl())
        if address.authorization is None and address.parts[:2] == self.parts[:2]:
            return Address(address.parts, self.authorization)
        return address

    def __str__(self) -> str:
        """Return the URL for people to read: a query may hold a key."""
        parts = self.parts
        return f"{parts.scheme}://{parts.netloc}{parts.path}{'?...' if parts.query else ''}"

    @property
    def name(self) -> str:
        """Name of the file, without its suffix."""
        name = printable(unquote(self.parts.path).rpartition("/")[2].removesuffix(".nerv"))
        return name if name.strip(" .") else NAMELESS

    def connect(self, timeout_seconds: float) -> HTTPConnection:
        """Return an open connection, which may be silent for a time."""
        parts = self.parts
        kind = CONNECTIONS[parts.scheme]
        connection = kind(
            parts.hostname or "", parts.port or kind.default_port, timeout=timeout_seconds
        )
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        return connection

    def ask(self, connection: HTTPConnection, headers: Mapping[str, str]) -> HTTPResponse:
        """Ask for the file and return the answer, of which the body is still to come."""
        target = self.parts.path + (f"?{self.parts.query}" if self.parts.query else "")
        own = {} if self.authorization is None else {"Authorization": self.authorization}
        connection.request("GET", target, headers={**HEADERS, **headers, **own})
        return connection.getresponse()


def _basic(user: str) -> str | None:
    """Return the header for the user of a URL, if it has one."""
    if not user:
        return None
    name, _, password = user.partition(":")
    return f"Basic {base64.b64encode(f'{unquote(name)}:{unquote(password)}'.encode()).decode()}"
