from __future__ import annotations

from typing import Any

import pytest
from sample_args import Keeper, Stay

from millhand.core.args.codec import decoder_of
from millhand.core.args.decode_errors import redacted_decode_error
from millhand.core.errors import InvalidJob


@pytest.mark.parametrize(
    ("args_type", "encoded", "fault"),
    [
        (Keeper, "{}", "Object missing required field `pets`"),
        (
            Keeper,
            '{"pets": [{"type": "Cat", "lives": "secret"}]}',
            "Expected `int`, got `str` - at `$.pets[...].lives`",
        ),
        (Keeper, '{"pets": [{"type": "secret"}]}', "Invalid value - at `$.pets[...].type`"),
        (
            Keeper,
            '{"pets": [{"type": "Dog", "name": "x"}]}',
            "Expected `str` of length >= 2 - at `$.pets[...].name`",
        ),
        (
            Keeper,
            '{"pets": [{"type": "Dog", "name": "SECRET"}]}',
            "Expected `str` matching regex '^[a-z]+$' - at `$.pets[...].name`",
        ),
        (
            Keeper,
            '{"pets": [{"type": "Dog", "name": "secret"}]}',
            "refused by its class with ValueError - at `$.pets[...]`",
        ),
        (
            Keeper,
            '{"pets": [], "byName": {"secret": {"type": "Cat"}}}',
            "Object missing required field `lives` - at `$.byName[...]`",
        ),
        (Keeper, '{"pets": [], "size": "secret - at `$.secret`"}', "Invalid enum value - at `$.size`"),
        (Stay, '{"suites": [{"numBeds": 0}]}', "suites[...].numBeds: Input should be greater than 0"),
        (Stay, '{"by_guest": {"secret": {}}}', "by_guest[...].numBeds: Field required"),
        (Stay, '{"board": "secret"}', "board: Input should be 'full' or 'none'"),
        (Stay, '{"nights": 77}', "nights: refused as not_even"),
        (Stay, '{"nights": 0}', "nights: refused as zero"),
        (Stay, '{"nights": 1002}', "nights: refused as assertion_error"),
        (Stay, '{"link": "secret"}', "link: refused as url_parsing"),
        (Stay, '{"suites": [{}, {}]}', "suites[...].numBeds: Field required"),
        (dict[str, Any], "[1]", "Expected `object`, got `array`"),
    ],
)
def test_redacted_decode_error_has_the_place_and_no_value(args_type: Any, encoded: str, fault: str) -> None:
    """The text has the place and what is expected there, and none of the args."""
    with pytest.raises(InvalidJob) as refusal:
        decoder_of(args_type, "k")(encoded)

    assert redacted_decode_error(refusal.value, args_type) == fault


def test_redacted_decode_error_of_another_error_is_its_name() -> None:
    """An error that no decoder raised is reported by its class only."""
    assert redacted_decode_error(KeyError("secret"), Keeper) == "refused with KeyError"


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (
            '{"by_guest": {"secret": {}}, "suites": [{}]}',
            "suites.0.numBeds: Field required; by_guest[...].numBeds: Field required",
        ),
        ('{"link": "secret"}', "link: refused as url_parsing"),
        ('{"nights": 77}', "nights: 77 is not even"),
        ('{"nights": 1002}', "nights: Assertion failed, got 1002"),
    ],
)
def test_error_of_a_model_has_no_value(encoded: str, reason: str) -> None:
    """The error of an attempt has messages of the model's own validators, and no other part of the args."""
    with pytest.raises(InvalidJob) as refusal:
        decoder_of(Stay, "k")(encoded)

    assert str(refusal.value) == f"args of kind 'k' must decode as Stay, got: {reason}"
