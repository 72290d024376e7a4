"""Passwords and the verdict on a CONNECT."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustmq import config
from robustmq.credentials import credential_key
from robustmq.errors import BrokerError, Fault
from robustmq.listener import DEFAULT
from robustmq.security import passwords, scram
from robustmq.security.authenticator import Authenticator


def with_users(tmp_path: Path) -> Authenticator:
    """An authenticator that knows ann."""
    file = tmp_path / "passwords"
    passwords.write(file, passwords.set_password({}, "ann", b"secret"))
    assert file.stat().st_mode & 0o777 == 0o600
    return Authenticator(config.parse({"security": {"password_file": str(file)}}))


def refused(authenticator: Authenticator, user: str | None, password: bytes | None) -> Fault:
    """The fault of a refusal."""
    with pytest.raises(BrokerError) as error:
        authenticator.check(user, password, DEFAULT)
    return error.value.fault


def test_out_of_the_box_anonymous_clients_are_welcome_on_loopback() -> None:
    assert Authenticator(config.Settings()).check(None, None, DEFAULT)


def test_with_a_password_file_only_known_users_come_in(tmp_path: Path) -> None:
    authenticator = with_users(tmp_path)
    assert refused(authenticator, None, None) == Fault.NOT_AUTHORIZED
    assert refused(authenticator, "ann", None) == Fault.BAD_USER_NAME_OR_PASSWORD
    assert not authenticator.check("ann", b"secret", DEFAULT)
    assert authenticator.verify_slowly("ann", b"secret")
    assert not authenticator.verify_slowly("ann", b"wrong")
    assert not authenticator.verify_slowly("bob", b"secret")


def test_a_verified_password_is_known_at_once_and_no_other(tmp_path: Path) -> None:
    authenticator = with_users(tmp_path)
    authenticator.remember(authenticator.mark("ann", b"secret"))
    assert authenticator.check("ann", b"secret", DEFAULT)
    assert not authenticator.check("ann", b"Secret", DEFAULT)
    assert not authenticator.check("bob", b"secret", DEFAULT)


def test_a_password_file_that_others_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    passwords.write(file, {})
    file.chmod(0o644)
    with pytest.raises(passwords.PasswordFileError, match="chmod 600"):
        passwords.read(file)
    file.chmod(0o600)
    file.write_text("ann:plain\n")
    with pytest.raises(passwords.PasswordFileError, match=":1:"):
        passwords.read(file)


def test_users_of_the_configuration_and_of_the_cluster_prove_themselves(tmp_path: Path) -> None:
    made = scram.derive("run", "SCRAM-SHA-256", b"time", b"0123456789ab")
    known = {credential_key("run", "SCRAM-SHA-256"): made}
    settings = config.parse({"kafka": {"user": [{"name": "con", "password": "fig"}]}})
    authenticator = Authenticator(settings, lambda: known)
    for user, password in (("con", b"fig"), ("run", b"time")):
        assert not authenticator.check(user, password, DEFAULT)
        assert authenticator.verify_slowly(user, password)
        assert not authenticator.verify_slowly(user, b"wrong")
        authenticator.remember(authenticator.mark(user, password))
        assert authenticator.recalls(user, password)
    assert not authenticator.verify_slowly("nobody", b"x")
    # Who is not a user may still call itself what it likes where anonymous clients may come in.
    assert authenticator.check("nobody", b"x", DEFAULT)
    # Another password of the user: what was verified counts no more.
    known[credential_key("run", "SCRAM-SHA-256")] = scram.derive(
        "run", "SCRAM-SHA-256", b"other", b"0123456789ab"
    )
    assert not authenticator.recalls("run", b"time")
    known.clear()
    assert not authenticator.verify_slowly("run", b"time")


def test_scram_finds_the_verifier_of_a_user_wherever_it_is(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    users = passwords.set_password({}, "plain", b"p")
    passwords.write(file, passwords.set_password(users, "both", b"b", tuple(scram.HASHES)))
    settings = config.parse(
        {
            "security": {"password_file": str(file)},
            "kafka": {"user": [{"name": "con", "password": "fig"}]},
        }
    )
    authenticator = Authenticator(settings)
    for mechanism in scram.HASHES:
        found = authenticator.scram("both", mechanism)
        assert found is not None and scram.holds(found, b"b") and not scram.holds(found, b"p")
        assert authenticator.scram("plain", mechanism) is None
        assert authenticator.must_make("con", mechanism)
        authenticator.keep_scram(authenticator.make_scram("con", mechanism))
        made = authenticator.scram("con", mechanism)
        assert made is not None and scram.holds(made, b"fig")
    assert authenticator.verify_slowly("both", b"b") and not authenticator.verify_slowly(
        "both", b""
    )
    file.write_text(file.read_text().replace("SCRAM-SHA-256$", "SCRAM-SHA-256$x"))
    with pytest.raises(passwords.PasswordFileError, match=":1:"):
        passwords.read(file)
