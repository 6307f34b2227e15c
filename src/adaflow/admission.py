"""Who is let in by the pages that AdaFlow serves: this machine, or somebody who knows the password."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from .errors import InputError

SHORTEST_PASSWORD = 10
GUESS = 0.5
"""Seconds that a wrong password takes."""


def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine as this machine does."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def basic_password(header: str | None) -> bytes:
    """The password in an Authorization header; nothing where there is none."""
    scheme, _, coded = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(coded.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def knows(header: str | None, password: str) -> bool:
    """Whether an Authorization header holds the password; compared in constant time."""
    return hmac.compare_digest(basic_password(header), password.encode())


def own_origin(origins: Sequence[str], hosts: Sequence[str], sites: Sequence[str]) -> bool:
    """Whether a request comes from a page of the host it goes to, by its Origin, Host and Sec-Fetch-Site headers."""
    same = len(origins) == 1 and origins[0].partition("://")[2].lower() == "".join(hosts).lower()
    return same and all(site == "same-origin" for site in sites)


def address_of(host: str, port: int) -> tuple[socket.AddressFamily, str, bool]:
    """The family and the number of an address to listen at, and whether only this machine reaches it.

    Raises:
        InputError: it is no address.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return family, str(address[0]), ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
    except (OSError, UnicodeError, OverflowError) as error:
        raise InputError(f"{host} port {port} is no address of this machine ({error})") from error


def read_password(file: Path | None, variable: str) -> str | None:
    """The password of a file's first line, else of the environment; None where neither is given.

    Raises:
        InputError: the file cannot be read, or the password is short.
    """
    try:
        given = file.read_text(encoding="utf-8").split("\n")[0].strip() if file else os.environ.get(variable)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the password file {file} cannot be read ({error})") from error
    if given is not None and len(given) < SHORTEST_PASSWORD:
        raise InputError(f"the password has {len(given)} characters; take at least {SHORTEST_PASSWORD}")
    return given
