"""An echo server admits two connections. A third client is refused, and the server says why."""

import trio
from libp2p import new_host
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

from rcmgr import ConnectionLimits, Eviction, NodeLimits, ResourceManager
from rcmgr.libp2p import harden

ECHO = "/echo/1.0.0"
LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/0")


async def echo(stream):
    while data := await stream.read(4096):
        await stream.write(data)
    await stream.close()


async def ask(server, text, done):
    client = new_host()
    async with client.run(listen_addrs=[LOOPBACK]):
        try:
            await client.connect(server)
            stream = await client.new_stream(server.peer_id, [ECHO])
            await stream.write(text)
            answer = await stream.read(4096)
            print(f"client {text.decode()}: the server answers {answer.decode()}")
            await done.wait()  # and stay connected
        except Exception as error:
            print(f"client {text.decode()}: refused ({type(error).__name__})")
            done.set()


async def main():
    # Without eviction a full node refuses newcomers, and does not make room for them.
    manager = ResourceManager(NodeLimits(
        connections=ConnectionLimits(max_established_inbound=2), eviction=Eviction(enabled=False)))
    host = new_host(resource_manager=manager)
    hardening = harden(host)
    host.set_stream_handler(ECHO, echo)
    async with host.run(listen_addrs=[LOOPBACK]), trio.open_nursery() as clients:
        server = PeerInfo(host.get_id(), host.get_addrs())
        done = trio.Event()
        for name in (b"one", b"two", b"three"):
            clients.start_soon(ask, server, name, done)
            await trio.sleep(0.5)
        with trio.move_on_after(20):
            await done.wait()
        done.set()
        print("server:", manager.last_denial)
    hardening.undo()


trio.run(main)
