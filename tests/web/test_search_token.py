from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millhand.core.job import JobState
from millhand.web.search import parse_search
from millhand.web.search_token import Token, merged

NAMES = st.text(
    st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=8
) | st.sampled_from(["a b", "1", '"', "a,b"])


@pytest.mark.slow
@given(
    st.lists(
        st.builds(Token, st.sampled_from(["kind", "queue", "tag", "client"]), st.tuples(NAMES)), max_size=4
    )
)
def test_tokens_that_the_page_adds_are_read_back(tokens: list[Token]) -> None:
    """Whatever a name contains, a token of it is written so that it is read back."""
    search = parse_search("")
    for token in tokens:
        search = search.added(token)

    assert parse_search(str(search)).tokens == search.tokens


def test_tokens_can_be_changed() -> None:
    """Tabs replace the states of a search, a removable token is left out, and another token is added."""
    search = parse_search("kind:a state:retryable tag:eu")

    assert str(search.replaced("state", "available")) == "state:available kind:a tag:eu"
    assert str(search.replaced("state")) == "kind:a tag:eu"
    assert str(search.without(search.tokens[0])) == "state:retryable tag:eu"
    assert str(search.added(Token("kind", ("b",)))) == "kind:a,b state:retryable tag:eu"
    assert (
        str(search.added(Token("tag", ("a b",), is_negated=True)))
        == 'kind:a state:retryable tag:eu -tag:"a b"'
    )


@pytest.mark.parametrize(
    ("line", "states"),
    [
        ("", list(JobState)),
        ("state:running", [JobState.RUNNING]),
        (
            "-state:completed,discarded,cancelled,running,pending,scheduled",
            [JobState.AVAILABLE, JobState.RETRYABLE],
        ),
        ("state:running -state:running", []),
    ],
)
def test_states_of_a_search(line: str, states: list[JobState]) -> None:
    """A search without states has all of them, and a minus leaves some out."""
    assert list(parse_search(line).states) == states


def test_tokens_are_merged_in_one_pass() -> None:
    """Each value is looked at once, however many tokens of a field become one."""

    class CountedText(str):
        __slots__ = ()
        num_hashed = 0

        def __hash__(self) -> int:
            CountedText.num_hashed += 1
            return super().__hash__()

    tokens = [Token("id", (CountedText(number),)) for number in range(300)]

    [token] = merged(tokens)

    assert token.values == tuple(map(str, range(300)))
    assert CountedText.num_hashed == 300
