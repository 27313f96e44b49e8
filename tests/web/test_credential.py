from __future__ import annotations

import pytest

from millhand import ConfigError
from millhand.web import UserConfig, WebConfig
from millhand.web.credential import NO_PASSWORD, hashed_password, hashed_token, is_password, new_token


def test_hash_is_that_of_one_password() -> None:
    """A hash is new each time, and only its own password fits."""
    first, second = (hashed_password("hören", log2_rounds=1) for _ in range(2))

    assert first != second
    assert is_password("hören", first)
    assert is_password("hören", second)
    assert not is_password("horen", first)


@pytest.mark.parametrize("hashed", ["", "hören", "scrypt:1:8:5:a:b", "scrypt:99:8:5:" + "A" * 66])
def test_no_password_fits_what_is_no_hash(hashed: str) -> None:
    """An empty or malformed hash lets no password in, the empty one included."""
    assert not is_password("", hashed)
    assert not is_password(hashed, hashed)


@pytest.mark.slow
def test_password_is_stored_with_the_cost_that_is_advised() -> None:
    """A hash for the settings takes 2^14 rounds of scrypt, five times, as does the check of an unknown name."""
    assert hashed_password("x").startswith("scrypt:14:8:5:")
    assert NO_PASSWORD.startswith("scrypt:14:8:5:")


def test_token_has_256_bits() -> None:
    """A token is too long to be guessed, and its hash is plain SHA-256, as `sha256sum` prints it."""
    assert len(new_token()) == 43
    assert hashed_token("abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("field", ["password", "token"])
def test_error_of_a_plain_secret_does_not_show_it(field: str) -> None:
    """A password or token written where its hash belongs is refused, without repeating it."""
    with pytest.raises(ConfigError, match=f"^{field} must be a hash") as refused:
        UserConfig(**{field: "hunter2"})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"proxy_header": "X-User"}, "proxy_networks must name the networks of your proxies"),
        (
            {"proxy_networks": ["proxy.example"]},
            "proxy_networks must be networks such as '10.0.0.0/8', got: 'proxy",
        ),
        ({"proxy_networks": ["10.0.0.1/8"]}, "proxy_networks must be networks such as"),
        (
            {"users": {"*": UserConfig(token=hashed_token("x"))}},
            "user '*' must have neither password nor token",
        ),
        ({"hide": ["password"]}, "hide must be paths that begin with args, metadata or output"),
        ({"hide": ["args..x"]}, "hide must be paths"),
    ],
)
def test_config_that_would_open_the_page_by_mistake_is_refused(config: dict[str, object], error: str) -> None:
    """Each setting that cannot mean what it says is an error when the page is made."""
    with pytest.raises(ConfigError) as refused:
        WebConfig(**config)  # type: ignore[arg-type]
    assert str(refused.value).startswith(error)
