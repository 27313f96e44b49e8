"""What is wrong with TLS, said by the options that mend it, which every driver calls alike."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from millhand.errors import ConfigError

# Words of libpq, OpenSSL and PostgreSQL, and what to do then; the first that is found counts.
_REMEDIES = (
    (
        (
            "does not match host name",
            "certificate is not valid for",
            "Hostname mismatch",
            "IP address mismatch",
        ),
        "the host of the URL must be one that the server's certificate names, or sslmode be verify-ca",
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
    (("no encryption",), "the server may want TLS: sslmode (PGSSLMODE) must not be disable"),
    (
        ("rejected SSL upgrade", "does not support SSL"),
        "sslmode (PGSSLMODE) must be prefer or disable for a server without TLS",
    ),
)
# Option of a URL: the variable that stands for it.
_FILES = {
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
}
_NO_FILE = "system"  # the authorities that the machine trusts


def with_remedy(reason: str) -> str:
    """Return why a connection was not made, in one line, with the option to look at if it is one of TLS."""
    for words, remedy in _REMEDIES:
        if any(word in reason for word in words):
            return f"{' '.join(reason.split())}; {remedy}"
    return reason


def is_about_tls(reason: str) -> bool:
    """Say whether a reason is of those that have a remedy here, or names an option of TLS."""
    return "ssl" in reason.lower() or with_remedy(reason) != reason


def require_files(url: str) -> None:
    """
    See that the files of TLS that a URL or the environment names can be read.

    Raises: ConfigError, with the option's name.
    """
    for option, path in _named_files(url):
        if path != _NO_FILE and not os.access(path, os.R_OK):
            raise ConfigError(f"{option} must be a file that can be read, got {path!r}")


def _named_files(url: str) -> Iterator[tuple[str, str]]:
    said = parse_qs(urlsplit(url).query)
    for option, variable in _FILES.items():
        if option in said:
            yield option, said[option][-1]
        elif os.environ.get(variable):
            yield variable, os.environ[variable]
