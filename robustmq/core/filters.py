# cython: annotation_typing=False, cdivision=True
"""Which filters match a topic (MQTT 5.0 section 4.7).

Filters without a wildcard are looked up in one dictionary; the others form a trie of levels, walked
level by level with the set of nodes that are still possible. `#` matches its parent too, levels may
be empty, and a wildcard at the start does not match a topic that begins with `$`.
"""

from __future__ import annotations


class Node:
    """One level: children by name, the child of `+`, the values of filters that end here or with
    `/#`."""

    def __init__(self) -> None:
        self.children: dict[bytes, Node] = {}
        self.plus: Node | None = None
        self.values: list[object] = []
        self.multi: list[object] = []


class FilterTrie:
    """Filters with values; a filter may carry many values, and equal ones as often as they were
    inserted."""

    def __init__(self) -> None:
        self.root = Node()
        self.exact: dict[bytes, list[object]] = {}
        self.wildcards = 0
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def insert(self, filter: bytes, value: object) -> None:
        """Add a value under a valid filter."""
        self.size += 1
        if b"#" not in filter and b"+" not in filter:
            self.exact.setdefault(filter, []).append(value)
            return
        self.wildcards += 1
        node = self.root
        for level in filter.split(b"/"):
            if level == b"#":
                node.multi.append(value)
                return
            if level == b"+":
                child = node.plus
                if child is None:
                    child = node.plus = Node()
            else:
                child = node.children.get(level)
                if child is None:
                    child = node.children[level] = Node()
            node = child
        node.values.append(value)

    def remove(self, filter: bytes, value: object) -> bool:
        """Take one value away; False when it was not there. Empty nodes go with it."""
        if b"#" not in filter and b"+" not in filter:
            values = self.exact.get(filter)
            if values is None or value not in values:
                return False
            values.remove(value)
            if not values:
                del self.exact[filter]
            self.size -= 1
            return True
        path: list[Node] = [self.root]
        levels = filter.split(b"/")
        multi = levels[-1] == b"#"
        for level in levels[:-1] if multi else levels:
            child = path[-1].plus if level == b"+" else path[-1].children.get(level)
            if child is None:
                return False
            path.append(child)
        values = path[-1].multi if multi else path[-1].values
        if value not in values:
            return False
        values.remove(value)
        self.size -= 1
        self.wildcards -= 1
        self._prune(path, levels)
        return True

    def _prune(self, path: list[Node], levels: list[bytes]) -> None:
        for depth in range(len(path) - 1, 0, -1):
            node = path[depth]
            if node.children or node.plus is not None or node.values or node.multi:
                return
            if levels[depth - 1] == b"+":
                path[depth - 1].plus = None
            else:
                del path[depth - 1].children[levels[depth - 1]]

    def match(self, topic: bytes) -> list[object]:
        """The values of all filters that match a topic name; exact ones first."""
        found: list[object] = []
        values = self.exact.get(topic)
        if values is not None:
            found += values
        if self.wildcards:
            self._walk(topic, found)
        return found

    def _walk(self, topic: bytes, found: list[object]) -> None:
        nodes: list[Node] = [self.root]
        hidden = topic[:1] == b"$"
        for level in topic.split(b"/"):
            following: list[Node] = []
            for node in nodes:
                child = node.children.get(level)
                if child is not None:
                    following.append(child)
                if not hidden:
                    if node.multi:
                        found += node.multi
                    child = node.plus
                    if child is not None:
                        following.append(child)
            if not following:
                return
            nodes = following
            hidden = False
        for node in nodes:
            if node.values:
                found += node.values
            if node.multi:
                found += node.multi
