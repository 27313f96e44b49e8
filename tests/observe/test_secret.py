"""Claims about masked passwords."""

from __future__ import annotations

import time

import pytest

from millhand.core.secret import masked, masked_error, masked_head, masked_tail, masked_url

LONG_QUERIES = [part * 50_000 for part in ("?a", "&token", "?%3A%2F%2F", "%3A%2F%2Fa", "?key=secret%40")]


@pytest.mark.parametrize(
    "text",
    [
        "x" * 500_000,
        "://u:" * 100_000,
        "a" * 100_000 + "://u:" + "p" * 100_000,
        "?" + "token" * 50_000,
        *LONG_QUERIES,
    ],
)
def test_masked_takes_linear_time(text: str) -> None:
    """Masking a long text is fast, because the event loop waits for it."""
    begun = time.process_time()
    masked(f"postgresql://ann:sesame@db? {text}")

    assert time.process_time() - begun < 2.0


@pytest.mark.parametrize(
    ("text", "shown_as"),
    [
        ("postgresql://ann:sesame@db:5432/shop", "postgresql://ann:***@db:5432/shop"),
        ("postgresql://ann:ses@me@db/shop", "postgresql://ann:***@db/shop"),
        ("postgresql://ann:ses/ame@db/shop", "postgresql://ann:***@db/shop"),
        ("postgresql://:sesame@db/shop", "postgresql://:***@db/shop"),
        (
            "postgresql://db/shop?user=ann&password=sesame&x=1",
            "postgresql://db/shop?user=ann&password=***&x=1",
        ),
        ("got 's3+https://key:secret@host/b', see there", "got 's3+https://key:***@host/b', see there"),
        ("postgresql://ann@db:5432/shop", "postgresql://ann@db:5432/shop"),
        ("http://host:80/path and a@b", "http://host:80/path and a@b"),
        ("no url: a:b@c", "no url: a:b@c"),
    ],
)
def test_masked_hides_only_passwords(text: str, shown_as: str) -> None:
    """A password in a URL is masked in every form, and other text stays."""
    assert masked(text) == shown_as


@pytest.mark.parametrize(
    ("text", "shown_as"),
    [
        ("postgresql://ann@db:5432/shop", "postgresql://ann@db:5432/shop"),
        ("postgresql://ann@/shop?host=/run&port=5433", "postgresql://ann@/shop?host=/run&port=5433"),
        ("postgresql://ann@db1:5432,db2:5433/shop", "postgresql://ann@db1:5432,db2:5433/shop"),
        ("postgresql://[::1]:5432/shop", "postgresql://[::1]:5432/shop"),
        ("postgresql://ann:ses ame@db/shop", "postgresql://ann:***@db/shop"),
        ("postgresql://ann%3Asesame@db/shop", "postgresql:***@db/shop"),
        ("postgresql://ann:sesame", "postgresql://ann:***"),
        ("postgresql://ann:60185/shop", "postgresql://ann:***/shop"),
        ("'postgresql://ann:60185'", "'postgresql://ann:***"),
        ("postgresql://db:5432/shop", "postgresql://db:5432/shop"),
        ("postgresql://db.internal:5433", "postgresql://db.internal:5433"),
        ("http://localhost:9000/bucket", "http://localhost:9000/bucket"),
        ("s3://b?endpoint_url=http://minio:9000", "s3://b?endpoint_url=http://minio:9000"),
        (
            "s3://b/m?endpoint_url=https://127.0.0.1:8333&region=eu&path_style=true",
            "s3://b/m?endpoint_url=https://127.0.0.1:8333&region=eu&path_style=true",
        ),
        ("postgresql://db/shop?password=ses#ame&user=ann", "postgresql://db/shop?password=***&user=ann"),
        ("host=db password=sesame user=ann", "host=db password=***"),
        ("ann:sesame@db/shop", "ann:***@db/shop"),
        (
            "s3://b/m?aws_secret_access_key=ses/ame+x&region=eu",
            "s3://b/m?aws_secret_access_key=***&region=eu",
        ),
        (
            "s3://b?endpoint_url=http%3A%2F%2Fann%3Asesame%40host",
            "s3://b?endpoint_url=http%3A%2F%2F***%40host",
        ),
        ("https://b.example.com/?X-Amz-Signature=sesame", "https://b.example.com/?X-Amz-Signature=***"),
        ("postgresql://db/shop?sslkey=/etc/db.key", "postgresql://db/shop?sslkey=/etc/db.key"),
    ],
)
def test_masked_url_shows_the_user_and_no_password(text: str, shown_as: str) -> None:
    """Everything but the password of a URL is shown, even if the URL is invalid."""
    assert masked_url(text) == shown_as


@pytest.mark.parametrize(
    ("text", "shown_as"),
    [
        ("got 'postgresql://ann:ses ame@db'; empty is none", "got 'postgresql://ann:***@db'; empty is none"),
        ('got "postgresql://ann:ses\' ame@db"; a:b@c', 'got "postgresql://ann:***@db"; a:b@c'),
        ("got 'postgresql://ann:60185'; fix it", "got 'postgresql://ann:***'; fix it"),
        (
            "must begin with 'postgresql://' or 's3://', got scheme 'x'",
            "must begin with 'postgresql://' or 's3://', got scheme 'x'",
        ),
    ],
)
def test_masked_error_hides_passwords_of_quoted_urls(text: str, shown_as: str) -> None:
    """A quoted URL in an error is masked, and the text around it stays."""
    assert masked_error(text) == shown_as


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "got postgresql://ann:QQQQQQQQ@db/shop?x=1&password=QQQQQQQQ#a, see there",
        "s3://b?endpoint_url=http%3A%2F%2Fann%3AQQQQQQQQ%40host&x=1 and more",
        "://u:" + "Q" * 400 + "@h " + "x" * 20,
        "postgresql://ann:QQQQQQQQ@db " * 200,
    ],
)
def test_cut_divides_no_secret(text: str) -> None:
    """Wherever a text is cut, its beginning and its end show no part of a secret, and the rest of them stays."""
    lengths = range(1, min(len(text), 600))

    heads = [masked_head(text, length) for length in lengths]
    tails = [masked_tail(text, length) for length in lengths]

    assert [part for part in (*heads, *tails) if "Q" in part] == []
    assert [masked(text).startswith(head) for head in heads] == [True] * len(heads)
    assert [masked(text).endswith(tail) for tail in tails] == [True] * len(tails)
    assert masked_head(text, len(text)) == masked_tail(text, len(text)) == masked(text)
