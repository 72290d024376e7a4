"""Bans, as operators keep them. They are the cluster's: any worker can be asked, and answers when
all of them have applied what was asked."""

from __future__ import annotations

from robustmq.bans import FOR_EVER, MAX_REASON, Ban, Kind, normal_value
from robustmq.control.contract import Operator, Refused, Steps, pattern
from robustmq.control.messages import AddBan, BanRow, ListBans, RemoveBan
from robustmq.shard.cluster_view import Outcome

LONGEST_S = 100 * 365 * 86_400
"""Of a ban that is not for ever; times are kept in 64 bits."""


def list_bans(operator: Operator, request: ListBans) -> Steps:
    """Every ban that is not over."""
    fits = pattern(request.filter)
    now_ms = operator.broker.wall_ms()
    for ban in list(operator.broker.cluster.bans.all()):
        wanted = ban.holds(now_ms) and (fits(ban.value) or fits(ban.reason))
        yield _row(ban) if wanted else None


def add_ban(operator: Operator, request: AddBan) -> Steps:
    """Keep somebody out from now on."""
    if len(request.reason) > MAX_REASON or len(request.by) > MAX_REASON:
        raise Refused(f"a reason has at most {MAX_REASON} characters")
    if not 0 <= request.for_s <= LONGEST_S:
        raise Refused(f"a ban lasts 1 to {LONGEST_S} seconds, or (0) for ever")
    now_ms = operator.broker.wall_ms()
    until_ms = now_ms + request.for_s * 1000 if request.for_s else FOR_EVER
    value = _checked(request.kind, request.value)
    ban = Ban(request.kind, value, request.reason, request.by, now_ms, until_ms)
    answer = operator.broker.cluster.add_ban(ban)
    yield answer
    _applied(answer.result())
    yield _row(ban)


def remove_ban(operator: Operator, request: RemoveBan) -> Steps:
    """Let somebody in again; no row when nobody had kept them out."""
    value = _checked(request.kind, request.value)
    known = next(
        (
            ban
            for ban in operator.broker.cluster.bans.all()
            if ban.kind == request.kind and ban.value == value
        ),
        None,
    )
    answer = operator.broker.cluster.remove_ban(request.kind, value)
    yield answer
    _applied(answer.result())
    if known is not None:
        yield _row(known)


def _checked(kind: Kind, value: str) -> str:
    try:
        return normal_value(kind, value)
    except ValueError as error:
        raise Refused(str(error)) from None


def _applied(outcome: Outcome) -> None:
    if outcome.error:
        raise Refused(outcome.message or f"error {outcome.error}")


def _row(ban: Ban) -> BanRow:
    return BanRow(ban.kind, ban.value, ban.reason, ban.by, ban.at_ms, ban.until_ms)
