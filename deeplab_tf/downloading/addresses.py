"""Addresses of the web: what opens them, and what of them may be shown."""

from __future__ import annotations

import urllib.parse
import urllib.request

from deeplab_tf.downloading.errors import DownloadError
from deeplab_tf.strangers_words import printable


class _WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https alone."""

    def redirect_request(self, request, response, code, message, headers, address):
        if not address.lower().startswith(("http://", "https://")):
            raise DownloadError(
                f"{shown_address(request.full_url)} redirects to "
                f"{shown_address(address)}. Expected an address of http or https; no "
                "other is followed."
            )
        return super().redirect_request(
            request, response, code, message, headers, address
        )


def web_opener() -> urllib.request.OpenerDirector:
    """Returns what opens http and https: no ftp, no files of this machine."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        _WebRedirects(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


def without_password(address: str) -> tuple[str, str]:
    """Returns an address without "user:password@", and these words; or "" for none."""
    parts = urllib.parse.urlsplit(address)
    words, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=host).geturl(), words


def shown_address(address: str) -> str:
    """Returns an address as it may be printed."""
    return printable(without_password(address)[0])
