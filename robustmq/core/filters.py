# cython: annotation_typing=False, cdivision=True
"""Which filters match a topic (MQTT 5.0 section 4.7).

Filters without a wildcard are looked up in one dictionary; the others form a trie of levels, walked
level by level with the set of nodes that are still possible. `#` matches its parent too, levels may
be empty, and a wildcard at the start does not match a topic that begins with `$`.
"""

from __future__ import annotations


class Node:
    """One level: children by name, the child of `+`, and what is held for filters that end here or
    with `/#`. What is not there costs nothing: most nodes of a million are leaves."""

    def __init__(self) -> None:
        self.children: dict[bytes, Node] | None = None
        self.plus: Node | None = None
        self.here: object = None
        self.below: object = None


class FilterTrie:
    """Filters with values: a filter carries as many as one wants, each once; None is no value.

    One value is held as it is, several as the keys of a dictionary: a filter may have a hundred
    thousand subscribers, who all leave.
    """

    def __init__(self) -> None:
        self.root = Node()
        self.exact: dict[bytes, object] = {}
        self.wildcards = 0
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def insert(self, filter: bytes, value: object) -> None:
        """Add a value under a valid filter."""
        self.size += 1
        if b"#" not in filter and b"+" not in filter:
            self.exact[filter] = _with(self.exact.get(filter), value)
            return
        self.wildcards += 1
        node = self.root
        for level in filter.split(b"/"):
            if level == b"#":
                node.below = _with(node.below, value)
                return
            if level == b"+":
                child = node.plus
                if child is None:
                    child = node.plus = Node()
            else:
                if node.children is None:
                    node.children = {}
                child = node.children.get(level)
                if child is None:
                    child = node.children[level] = Node()
            node = child
        node.here = _with(node.here, value)

    def remove(self, filter: bytes, value: object) -> bool:
        """Take one value away; False when it was not there. Empty nodes go with it."""
        if b"#" not in filter and b"+" not in filter:
            held = self.exact.get(filter)
            if not _holds(held, value):
                return False
            held = _without(held, value)
            if held is None:
                del self.exact[filter]
            else:
                self.exact[filter] = held
            self.size -= 1
            return True
        path: list[Node] = [self.root]
        levels = filter.split(b"/")
        below = levels[-1] == b"#"
        for level in levels[:-1] if below else levels:
            child = _child(path[-1], level)
            if child is None:
                return False
            path.append(child)
        node = path[-1]
        if not _holds(node.below if below else node.here, value):
            return False
        if below:
            node.below = _without(node.below, value)
        else:
            node.here = _without(node.here, value)
        self.size -= 1
        self.wildcards -= 1
        self._prune(path, levels)
        return True

    def _prune(self, path: list[Node], levels: list[bytes]) -> None:
        for depth in range(len(path) - 1, 0, -1):
            node = path[depth]
            if (
                node.children is not None
                or node.plus is not None
                or node.here is not None
                or node.below is not None
            ):
                return
            parent = path[depth - 1]
            if levels[depth - 1] == b"+":
                parent.plus = None
            else:
                assert parent.children is not None, "a node is its parent's child"
                del parent.children[levels[depth - 1]]
                if not parent.children:
                    parent.children = None

    def match(self, topic: bytes) -> list[object]:
        """The values of all filters that match a topic name; exact ones first."""
        found: list[object] = []
        _take(self.exact.get(topic), found)
        if self.wildcards:
            self._walk(topic, found)
        return found

    def _walk(self, topic: bytes, found: list[object]) -> None:
        nodes: list[Node] = [self.root]
        hidden = topic[:1] == b"$"
        for level in topic.split(b"/"):
            following: list[Node] = []
            for node in nodes:
                if node.children is not None:
                    child = node.children.get(level)
                    if child is not None:
                        following.append(child)
                if not hidden:
                    _take(node.below, found)
                    child = node.plus
                    if child is not None:
                        following.append(child)
            if not following:
                return
            nodes = following
            hidden = False
        for node in nodes:
            _take(node.here, found)
            _take(node.below, found)


def _child(node: Node, level: bytes) -> Node | None:
    """Where a level of a filter leads."""
    if level == b"+":
        return node.plus
    return None if node.children is None else node.children.get(level)


def _take(held: object, found: list[object]) -> None:
    """Add what is held."""
    if held is None:
        return
    if isinstance(held, dict):
        found.extend(held)
    else:
        found.append(held)


def _with(held: object, value: object) -> object:
    """What is held when a value has come."""
    if held is None:
        return value
    if isinstance(held, dict):
        held[value] = None
        return held
    return {held: None, value: None}


def _holds(held: object, value: object) -> bool:
    return value in held if isinstance(held, dict) else held == value


def _without(held: object, value: object) -> object:
    """What is held when a value has gone that was there."""
    if not isinstance(held, dict):
        return None
    del held[value]
    return held if held else None
