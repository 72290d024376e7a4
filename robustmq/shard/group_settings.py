"""The settings of groups as the machines want them: the cluster state's, made into structs once and
again when they have changed.
"""

from __future__ import annotations

from collections.abc import Callable

from robustmq.groups.share_group import ShareGroupSettings
from robustmq.groups.share_partition import ShareSettings
from robustmq.kafka import group_configs
from robustmq.kafka.config_resources import GROUP

Configs = dict[str, str]


class GroupSettingsView:
    """What is set for each group, as this worker knows it."""

    def __init__(self, resource: Callable[[int, str], Configs], share_group_max_size: int) -> None:
        self._resource = resource
        self._max_size = share_group_max_size
        self._made: dict[str, tuple[Configs, ShareGroupSettings, ShareSettings]] = {}
        self._defaults: tuple[Configs, ShareGroupSettings, ShareSettings] = ({}, *self._make({}))

    def configs(self, group_id: str) -> Configs:
        """What was set, by name."""
        return self._resource(GROUP, group_id)

    def share_group(self, group_id: str) -> ShareGroupSettings:
        """For the machine of a share group."""
        return self._of(group_id)[1]

    def share_partition(self, group_id: str) -> ShareSettings:
        """For the share-partitions of a group."""
        return self._of(group_id)[2]

    def _of(self, group_id: str) -> tuple[Configs, ShareGroupSettings, ShareSettings]:
        configs = self._resource(GROUP, group_id)
        if not configs:
            self._made.pop(group_id, None)
            return self._defaults
        made = self._made.get(group_id)
        if made is None or made[0] is not configs:
            made = self._made[group_id] = (configs, *self._make(configs))
        return made

    def _make(self, configs: Configs) -> tuple[ShareGroupSettings, ShareSettings]:
        group = ShareGroupSettings(
            group_configs.number(configs, group_configs.SESSION_TIMEOUT),
            group_configs.number(configs, group_configs.HEARTBEAT_INTERVAL),
            group_configs.number(configs, group_configs.ASSIGNMENT_INTERVAL),
            self._max_size,
        )
        partition = ShareSettings(
            group_configs.number(configs, group_configs.RECORD_LOCK_DURATION),
            group_configs.number(configs, group_configs.DELIVERY_COUNT_LIMIT),
            group_configs.number(configs, group_configs.MAX_RECORD_LOCKS),
            group_configs.enabled(configs, group_configs.RENEW_ENABLE),
            group_configs.dead_letter_topic(configs) is not None,
        )
        return group, partition
