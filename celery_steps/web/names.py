"""Names in paths, whatever characters they hold."""

from __future__ import annotations

from urllib.parse import quote, unquote

from starlette.convertors import Convertor, register_url_convertor


class _Name(Convertor[str]):
    """One segment that no browser and no proxy rewrites.

    A name is percent-encoded twice: `%2F` would be a slash again before a route is chosen, and browsers take `%2E%2E` for `..`.
    """

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return unquote(value, errors="surrogatepass")

    def to_string(self, value: str) -> str:
        once = quote(value, safe="", errors="surrogatepass")
        if not once.strip("."):
            once = once.replace(".", "%2E")
        return quote(once, safe="")


register_url_convertor("steps_name", _Name())
