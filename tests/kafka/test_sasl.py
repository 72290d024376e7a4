"""How far a client has proven who it is: what is served in which state, and proving it again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from robustmq.errors import BrokerError
from robustmq.kafka.sasl import SaslState, Step
from robustmq.promises import Promise, resolved, start

HANDSHAKE, VERSIONS, AUTHENTICATE, METADATA = 17, 18, 36, 3


class Answers:
    """A verifier that takes a token for what it says: `ok NAME`, `more`, or anything else."""

    mechanisms: tuple[str, ...] = ("PLAIN", "SCRAM-SHA-256")

    def __init__(self, max_reauth_ms: int = 0) -> None:
        self.max_reauth_ms = max_reauth_ms
        self.waiting: Promise[Step] | None = None

    def exchange(self, mechanism: str) -> Answers:
        return self

    def step(self, token: bytes) -> Promise[Step]:
        word, _, name = token.decode().partition(" ")
        if word == "wait":
            self.waiting = Promise()
            return self.waiting
        if word == "ok":
            return resolved(Step(b"t", f"User:{name}"))
        return resolved(Step(b"t") if word == "more" else Step(refused="no"))


def served(state: SaslState, now_ms: int = 0) -> set[int]:
    """The APIs that are served now."""
    found = set()
    for key in (HANDSHAKE, VERSIONS, AUTHENTICATE, METADATA):
        try:
            state.admit(key, now_ms)
            found.add(key)
        except BrokerError:
            continue
    return found


def proven(state: SaslState, token: bytes = b"ok a", now_ms: int = 0) -> Step:
    state.begin("PLAIN", False)
    return start(state.step(token, now_ms)).result()


EVERYTHING = {HANDSHAKE, VERSIONS, AUTHENTICATE, METADATA}


def started(state: SaslState) -> None:
    pass


def chosen(state: SaslState) -> None:
    state.begin("PLAIN", False)


def half(state: SaslState) -> None:
    proven(state, b"more")


def busy(state: SaslState) -> None:
    state.begin("PLAIN", False)
    start(state.step(b"wait", 0))


def done(state: SaslState) -> None:
    proven(state)


def failed(state: SaslState) -> None:
    proven(state, b"wrong")


@pytest.mark.parametrize(
    ("reached", "wanted"),
    [
        (started, {HANDSHAKE, VERSIONS}),
        (chosen, {AUTHENTICATE}),
        (half, {AUTHENTICATE}),
        (busy, set()),
        (done, EVERYTHING),
        (failed, set()),
    ],
    ids=["start", "tokens", "more tokens", "busy", "proven", "failed"],
)
def test_what_is_served_in_each_state(
    reached: Callable[[SaslState], None], wanted: set[int]
) -> None:
    state = SaslState(Answers())
    reached(state)
    assert served(state) == wanted


def test_a_session_that_is_over_serves_nothing_but_the_proof() -> None:
    state = SaslState(Answers(1_000))
    proven(state, now_ms=500)
    assert served(state, 1_499) == EVERYTHING
    assert served(state, 1_500) == {HANDSHAKE, VERSIONS}
    assert proven(state, now_ms=1_600).principal == "User:a"
    assert served(state, 2_599) == EVERYTHING
    assert served(state, 2_600) == {HANDSHAKE, VERSIONS}


def test_a_client_that_proves_itself_again_stays_who_it_is() -> None:
    state = SaslState(Answers(1_000))
    proven(state)
    assert proven(state, b"ok b").refused == "the client stays User:a"
    assert served(state) == set()
    state = SaslState(Answers(1_000))
    proven(state)
    state.begin("SCRAM-SHA-256", False)
    assert start(state.step(b"ok a", 0)).result().refused == "the mechanism stays PLAIN"


def test_where_sessions_do_not_end_the_proof_is_given_once() -> None:
    once, again = SaslState(Answers()), SaslState(Answers(1_000))
    before = (once.may_begin, again.may_begin)
    proven(once)
    proven(again)
    assert (before, once.may_begin, again.may_begin) == ((True, True), False, True)
    assert not once.awaits_token


def test_bare_tokens_are_wanted_after_a_handshake_of_version_0() -> None:
    state = SaslState(Answers())
    state.begin("PLAIN", True)
    wanted = [state.wants_tokens]
    assert served(state) == set()
    for token in (b"more", b"ok a"):
        start(state.step(token, 0))
        wanted.append(state.wants_tokens)
    assert wanted == [True, True, False]
    assert served(state) == EVERYTHING
