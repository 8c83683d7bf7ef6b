"""Names in paths, whatever characters they hold."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from starlette.convertors import Convertor, register_url_convertor


class _Name(Convertor[str]):
    """One segment that no browser, server or proxy rewrites: percent-encoded, with ~ for %.

    With % itself, a slash would be one again before a route is chosen, and browsers take `%2E%2E` for `..`.
    """

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        try:
            return unquote(re.sub("~([0-9A-F]{2})", r"%\1", value.replace("%", "%25")), errors="surrogatepass")
        except UnicodeDecodeError:  # typed by hand
            return value

    def to_string(self, value: str) -> str:
        encoded = quote(value, safe="", errors="surrogatepass").replace("~", "%7E")
        if not encoded.strip("."):
            encoded = encoded.replace(".", "%2E")
        return encoded.replace("%", "~")


register_url_convertor("steps_name", _Name())
