"""Remedies for TLS errors, by the URL options that every driver has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from millhand.core.errors import ConfigError

# Parts of messages of libpq, OpenSSL and PostgreSQL, each with a remedy; the first match counts.
_REMEDIES = (
    (
        (
            "does not match host name",
            "certificate is not valid for",
            "Hostname mismatch",
            "IP address mismatch",
        ),
        "the URL's host must be a name in the server's certificate, or sslmode must be verify-ca",
    ),
    (
        ("certificate verify failed", "root certificate file", "root.crt"),
        "sslrootcert (PGSSLROOTCERT) must be the file of the authority that signed the server's certificate",
    ),
    (
        (
            "valid client certificate",
            "private key file",
            "certificate file",
            "PEM lib",
            "KEY_VALUES_MISMATCH",
        ),
        "sslcert and sslkey (PGSSLCERT, PGSSLKEY) must be the files of the client's certificate and of its key",
    ),
    (("no encryption",), "the server may require TLS: sslmode (PGSSLMODE) must not be disable"),
    (
        ("rejected SSL upgrade", "does not support SSL"),
        "sslmode (PGSSLMODE) must be prefer or disable for a server without TLS",
    ),
)
# Each URL option and its environment variable.
_FILES = {"sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslcrl": "PGSSLCRL"}
_NO_FILE = "system"  # the certificate authorities that the machine trusts


def with_remedy(reason: str) -> str:
    """Return a connection error's reason in one line, with the remedy if it is about TLS."""
    for parts, remedy in _REMEDIES:
        if any(part in reason for part in parts):
            return f"{' '.join(reason.split())}; {remedy}"
    return reason


def is_about_tls(reason: str) -> bool:
    return "ssl" in reason.lower() or with_remedy(reason) != reason


def require_files(url: str) -> None:
    """Check that the TLS files that a URL or the environment names can be read. Raises: ConfigError, with the option."""
    for option, path in _named_files(url):
        if path != _NO_FILE and not os.access(path, os.R_OK):
            raise ConfigError(f"{option} must be a readable file, got {path!r}")


def require_no_system_store(url: str) -> None:
    """
    Refuse the machine's certificate authorities, which only libpq can use.

    asyncpg looks for a file of that name, or verifies nothing if sslmode allows that.
    Raises: ConfigError, with the option.
    """
    for option, path in _named_files(url):
        if path == _NO_FILE:
            raise ConfigError(
                f"{option} must be a file with asyncpg, got {path!r}; name the file of the authorities that the machine "
                "trusts, such as /etc/ssl/certs/ca-certificates.crt, or install psycopg and write postgresql+psycopg://"
            )


def _named_files(url: str) -> Iterator[tuple[str, str]]:
    given = parse_qs(urlsplit(url).query)
    for option, variable in _FILES.items():
        if option in given:
            yield option, given[option][-1]
        elif os.environ.get(variable):
            yield variable, os.environ[variable]
