"""The `robustmq` command: its subcommands, and `robustmq-supervisor`.

Each command imports what it needs when it runs, so that `robustmq --help` is quick. `start` and
the daemon are the same. Exit codes: 0 done, 1 failed, 2 wrong use or wrong configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from robustmq import __version__

if TYPE_CHECKING:
    from robustmq.config import Settings

DEFAULT_CONFIG = "config.toml"
Command = Callable[[list[str]], int]


def start(arguments: list[str]) -> int:
    """Run the broker: supervisor, workers, meta, admin."""
    parser = argparse.ArgumentParser(prog="robustmq start", description=start.__doc__)
    _config_options(parser)
    options = parser.parse_args(arguments)
    from robustmq.config import ConfigError
    from robustmq.security.passwords import PasswordFileError

    path = config_path(options.config)
    overrides = settings_overrides(options)
    try:
        settings = load_settings(path, overrides)
        if settings.security.password_file:
            from robustmq.security import passwords

            passwords.read(settings.security.password_file)
    except (ConfigError, PasswordFileError) as error:
        print(f"robustmq: {error}", file=sys.stderr)
        return 2
    from robustmq.process.supervisor import run

    return int(run(settings, lambda: load_settings(path, overrides)))


def load_settings(path: Path | None, overrides: dict[str, str]) -> Settings:
    """Settings from a file, the environment, and options of the command line, in rising order."""
    from robustmq import config

    return config.load(path, {**os.environ, **overrides})


def settings_overrides(options: argparse.Namespace) -> dict[str, str]:
    """Options of the command line, written as variables of the environment."""
    overrides = {}
    if options.workers is not None:
        overrides["ROBUSTMQ_NODE__WORKERS"] = str(options.workers)
    if options.data_dir is not None:
        overrides["ROBUSTMQ_NODE__DATA_DIR"] = options.data_dir
    return overrides


def config_path(given: str | None) -> Path | None:
    """The file to read: the given one, else config.toml if it is here, else defaults alone."""
    if given is not None:
        return Path(given)
    return Path(DEFAULT_CONFIG) if Path(DEFAULT_CONFIG).exists() else None


def topics(arguments: list[str]) -> int:
    """Say how topics are kept, change it, and count messages of some."""
    from robustmq.cli.topics import run_topics

    return run_topics(arguments)


def pub(arguments: list[str]) -> int:
    """Publish a message over MQTT."""
    from robustmq.bench.main import run_pub

    return int(run_pub(arguments))


def sub(arguments: list[str]) -> int:
    """Subscribe over MQTT and print what comes."""
    from robustmq.bench.main import run_sub

    return int(run_sub(arguments))


def bench(arguments: list[str]) -> int:
    """Generate load and measure."""
    from robustmq.bench.main import run_bench

    return int(run_bench(arguments))


def doctor(arguments: list[str]) -> int:
    """Look at this machine and configuration and say what is wrong."""
    parser = argparse.ArgumentParser(prog="robustmq doctor", description=doctor.__doc__)
    _config_options(parser)
    options = parser.parse_args(arguments)
    from robustmq.cli.doctor import examine
    from robustmq.config import ConfigError

    try:
        settings = load_settings(config_path(options.config), settings_overrides(options))
    except ConfigError as error:
        print(f"fail  configuration     {error}")
        return 1
    findings = examine(settings)
    for finding in findings:
        print(f"{finding.verdict:<5} {finding.subject:<17} {finding.detail}")
    return 1 if any(finding.verdict == "fail" for finding in findings) else 0


def passwd(arguments: list[str]) -> int:
    """Set or delete a password in a password file."""
    parser = argparse.ArgumentParser(prog="robustmq passwd", description=passwd.__doc__)
    parser.add_argument("file", help="the password file; made if it is not there")
    parser.add_argument("user")
    parser.add_argument("--delete", action="store_true", help="delete the user")
    parser.add_argument(
        "--stdin", action="store_true", help="read the password from standard input"
    )
    parser.add_argument(
        "--scram", action="store_true", help="Kafka clients may also prove it by SCRAM"
    )
    options = parser.parse_args(arguments)
    from robustmq.security import passwords, scram

    try:
        users = passwords.read(options.file) if Path(options.file).exists() else {}
        if options.delete:
            if users.pop(options.user, None) is None:
                raise passwords.PasswordFileError(f"there is no user {options.user!r}")
        else:
            mechanisms = tuple(scram.HASHES) if options.scram else ()
            password = _ask_password(options.stdin)
            users = passwords.set_password(users, options.user, password, mechanisms)
        passwords.write(options.file, users)
    except (passwords.PasswordFileError, OSError) as error:
        print(f"robustmq passwd: {error}", file=sys.stderr)
        return 1
    return 0


def status(arguments: list[str]) -> int:
    """Show the workers of the running broker."""
    from robustmq.cli.clients import run_status

    return run_status(arguments)


def clients(arguments: list[str]) -> int:
    """List clients, show one, or end its connection."""
    from robustmq.cli.clients import run_clients

    return run_clients(arguments)


def subscriptions(arguments: list[str]) -> int:
    """List subscriptions; say who gets a topic."""
    from robustmq.cli.clients import run_subscriptions

    return run_subscriptions(arguments)


def bans(arguments: list[str]) -> int:
    """Keep clients out: list, add and remove bans."""
    from robustmq.cli.bans import run_bans

    return run_bans(arguments)


def slow(arguments: list[str]) -> int:
    """Show which clients and topics messages reach late."""
    from robustmq.cli.slow import run_slow

    return run_slow(arguments)


def recover(arguments: list[str]) -> int:
    """Make a lost data directory again from the object store."""
    from robustmq.cli.recover import run_recover

    return run_recover(arguments)


def storage(arguments: list[str]) -> int:
    """Look into what is stored: sizes, damage, records; compact it."""
    from robustmq.cli.storage import run_storage

    return run_storage(arguments)


COMMANDS: dict[str, Command] = {
    "start": start,
    "status": status,
    "clients": clients,
    "subscriptions": subscriptions,
    "bans": bans,
    "topics": topics,
    "slow": slow,
    "storage": storage,
    "pub": pub,
    "sub": sub,
    "bench": bench,
    "doctor": doctor,
    "passwd": passwd,
    "recover": recover,
}


def main(arguments: list[str] | None = None) -> int:
    """The `robustmq` command."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in COMMANDS:
        try:
            return COMMANDS[given[0]](given[1:])
        except BrokenPipeError:
            # Who read our output has seen enough (`| head`); what is buffered has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    if given == ["--version"]:
        print(f"robustmq {__version__}")
        return 0
    lines = [f"  {name:<14} {command.__doc__}" for name, command in COMMANDS.items()]
    usage = "usage: robustmq COMMAND [options]\n\n" + "\n".join(lines)
    asked = given in (["--help"], ["-h"])
    if given and not asked:
        print(f"robustmq: there is no command {given[0]!r}\n", file=sys.stderr)
    print(usage, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def supervisor(arguments: list[str] | None = None) -> int:
    """The `robustmq-supervisor` command: the daemon."""
    return start(sys.argv[1:] if arguments is None else arguments)


def _config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="default: config.toml, if it is here")
    parser.add_argument("--workers", type=int, metavar="N", help="node.workers")
    parser.add_argument("--data-dir", metavar="DIR", help="node.data_dir")


def _ask_password(from_stdin: bool) -> bytes:
    if from_stdin:
        return sys.stdin.buffer.readline().rstrip(b"\r\n")
    import getpass

    first = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != first:
        from robustmq.security.passwords import PasswordFileError

        raise PasswordFileError("the two passwords differ")
    return first.encode()


if __name__ == "__main__":
    sys.exit(main())
