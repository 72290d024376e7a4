"""Workers and the meta process."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from robustmq.cluster.commands import (
    AllocateProducerIds,
    CreateTopic,
    Delta,
    Result,
    TopicSet,
)
from robustmq.cluster.meta import Meta
from robustmq.process.meta import MetaServer
from robustmq.process.meta_client import LocalMeta, MetaClient
from robustmq.promises import Promise


async def settled(promise: Promise[Result]) -> Result:
    """Wait on the event loop for a promise."""
    done = asyncio.Event()
    promise.when_settled(done.set)
    await asyncio.wait_for(done.wait(), 10)
    return promise.result()


async def until_ready(client: MetaClient) -> None:
    """Wait for the first state."""
    done = asyncio.Event()
    client.ready.when_settled(done.set)
    await asyncio.wait_for(done.wait(), 10)


def test_what_one_worker_declares_all_know(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = MetaServer(Meta(tmp_path / "meta", "c"), str(tmp_path / "meta.sock"))
        await server.start()
        loop = asyncio.get_running_loop()
        clients = [MetaClient(str(tmp_path / "meta.sock")) for _ in range(2)]
        told: list[Delta] = []
        clients[1].on_delta(told.append)
        for client in clients:
            client.start(loop)
            await until_ready(client)
        result = await settled(clients[0].propose(CreateTopic(b"t", 2, {}, uuid.uuid4())))
        assert result.error == 0 and clients[0].state.topic(b"t") is not None
        await settled(clients[1].propose(AllocateProducerIds(1)))
        assert isinstance(told[0], TopicSet) and told[0].topic.name == b"t"
        for client in clients:
            client.stop()
        await server.stop()

    asyncio.run(scenario())


def test_a_proposal_made_while_meta_is_down_is_answered_when_it_is_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = str(tmp_path / "meta.sock")
        loop = asyncio.get_running_loop()
        client = MetaClient(path)
        told: list[Delta] = []
        client.on_delta(told.append)
        client.start(loop)
        waiting = client.propose(CreateTopic(b"t", 1, {}, uuid.uuid4()))
        first = MetaServer(Meta(tmp_path / "meta", "c"), path)
        await first.start()
        assert (await settled(waiting)).error == 0
        await first.stop()
        assert client._transport is not None
        client._transport.abort()
        await asyncio.sleep(0)
        again = client.propose(AllocateProducerIds(5))
        second = MetaServer(Meta(tmp_path / "meta", "c"), path)
        await second.start()
        assert (await settled(again)).value == 0
        assert len([delta for delta in told if isinstance(delta, TopicSet)]) == 1
        client.stop()
        await second.stop()

    asyncio.run(scenario())


def test_the_edge_profile_has_the_same_without_a_socket(tmp_path: Path) -> None:
    local = LocalMeta(Meta(tmp_path, "c"))
    told: list[Delta] = []
    local.on_delta(told.append)
    assert local.propose(CreateTopic(b"t", 1, {}, uuid.uuid4())).result().error == 0
    assert len(told) == 1 and local.state.topic(b"t") is not None
    local.stop()
