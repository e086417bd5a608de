"""Addresses of clips on the web."""

import base64
import re
import string
from urllib.parse import quote, unquote

from yarl import URL

from encoder.common.console import printable
from encoder.common.errors import SettingsError

HOST = re.compile("[a-z0-9._:%-]+")
UNNAMED = "clip"
"""Name of a clip whose address ends without one."""


def parse_url(text: str | bytes, base: URL | None = None) -> URL:
    """Return an http or https address in ASCII, joined to a base if there is one.

    Raises SettingsError. Its message shows only the scheme, because a URL may hold a password.
    """
    rule = "a URL must be like https://host/clip.nerv"
    try:
        # ASCII stays byte for byte, because a signature may cover it.
        url = URL(quote(text, safe=string.punctuation), encoded=True)
        url = url if base is None else base.join(url)
        host = unquote(url.raw_host or "").encode("idna").decode().lower()
        if url.scheme not in ("http", "https"):
            raise SettingsError(f"a URL must start with http:// or https://, got {url.scheme}:")
        if not HOST.fullmatch(host):
            raise SettingsError(f"{rule}, got one without a valid host")
        return url.with_host(host)
    except ValueError:
        raise SettingsError(f"{rule}, got a malformed one") from None


def shown(url: URL) -> str:
    """Return an address for people to read. Its user and its query may be secrets."""
    return f"{url.origin()}{url.raw_path}{'?...' if url.raw_query_string else ''}"


def clip_name(url: URL) -> str:
    """Return the name of the file at an address, without its suffix."""
    name = printable(url.path.rpartition("/")[2].removesuffix(".nerv"))
    return name if name.strip(" .") else UNNAMED


def authorization(url: URL, given: URL) -> dict[str, str]:
    """Return the header for the user of a URL, or of the given URL if both have one origin."""
    source = given if url.raw_user is None else url
    if source.raw_user is None or source.origin() != url.origin():
        return {}
    credentials = f"{source.user or ''}:{source.password or ''}".encode()
    return {"Authorization": f"Basic {base64.b64encode(credentials).decode()}"}
