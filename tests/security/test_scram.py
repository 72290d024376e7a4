"""SCRAM against another implementation of it (scramp), and against what is wrong with messages."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramMechanism
from scramp.core import ScramClient

from robustmq.credentials import ScramName
from robustmq.security import scram

MECHANISMS: tuple[ScramName, ...] = ("SCRAM-SHA-256", "SCRAM-SHA-512")
WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


def exchange(user: str, password: str, server: scram.ScramServer, mechanism: str) -> None:
    """Raises when either side does not believe the other."""
    client = ScramClient([mechanism], user, password)
    first = client.get_client_first().encode()
    assert scram.user_of(first) == user
    client.set_server_first(server.first(first).decode())
    client.set_server_final(server.final(client.get_client_final().encode()).decode())


@settings(max_examples=15, deadline=None)
@given(user=WORDS, password=WORDS, mechanism=st.sampled_from(MECHANISMS))
def test_another_implementation_is_believed_and_believes(
    user: str, password: str, mechanism: ScramName
) -> None:
    credential = scram.derive(user, mechanism, password.encode(), b"0123456789ab")
    exchange(user, password, scram.ScramServer(credential, "abc"), mechanism)
    with pytest.raises(scram.ScramError):
        exchange(user, password + "x", scram.ScramServer(credential, "abc"), mechanism)
    assert scram.holds(credential, password.encode())
    assert not scram.holds(credential, password.encode() + b"x")
    made = ScramMechanism(mechanism).make_auth_info(password, 4096, b"0123456789ab")
    assert (credential.stored_key, credential.server_key) == made[1:3]


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_example_of_the_specification_holds(mechanism: ScramName) -> None:
    """RFC 7677, section 3."""
    if mechanism != "SCRAM-SHA-256":
        assert len(scram.derive("u", mechanism, b"p", b"s" * 16).stored_key) == 64
        return
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    credential = scram.derive("user", mechanism, b"pencil", salt)
    server = scram.ScramServer(credential, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    said = server.first(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    assert said == (
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    said = server.final(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert said == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n",
        b"n,,",
        b"n,,n=u",
        b"n,,r=x,n=u",
        b"n,,n=,r=x",
        b"n,,n=u,r=",
        b"p=tls-unique,,n=u,r=x",
        b"n,a=other,n=u,r=x",
        b"n,,n=u=,r=x",
        b"n,,n=u=2D,r=x",
        b"n,,n=\xff,r=x",
        b"n,,n=" + b"u" * 5_000 + b",r=x",
    ],
    ids=range(13),
)
def test_a_bad_first_message_is_refused(message: bytes) -> None:
    with pytest.raises(scram.ScramError):
        scram.user_of(message)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"c=biws,r=xabc",
        b"c=biws,r=xabd,p=AAAA",
        b"c=eSws,r=xabc,p=AAAA",
        b"c=!,r=xabc,p=AAAA",
        b"c=biws,r=xabc,p=" + base64.b64encode(bytes(32)),
        b"c=biws,r=xabc,p=!",
        b"r=xabc,c=biws,p=AAAA",
    ],
    ids=range(8),
)
def test_a_bad_last_message_is_refused(message: bytes) -> None:
    credential = scram.derive("u", "SCRAM-SHA-256", b"p", b"0123456789ab")
    server = scram.ScramServer(credential, "abc")
    server.first(b"n,,n=u,r=x")
    with pytest.raises(scram.ScramError):
        server.final(message)


def test_a_user_that_is_not_there_looks_like_one() -> None:
    one = scram.decoy("u", "SCRAM-SHA-256", b"secret")
    assert one == scram.decoy("u", "SCRAM-SHA-256", b"secret")
    assert one.salt != scram.decoy("v", "SCRAM-SHA-256", b"secret").salt
    with pytest.raises(scram.ScramError):
        exchange("u", "p", scram.ScramServer(one, "abc"), "SCRAM-SHA-256")
