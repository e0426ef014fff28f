"""A guarded host serves metrics for Prometheus."""

import urllib.request

import trio
from libp2p import new_host
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr

import rcmgr

LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/0")


def read(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


async def main():
    rcmgr.install()
    server, client = new_host(), new_host()
    with rcmgr.manager_of(server).serve_metrics(0) as metrics:  # your program names a port
        url = f"http://127.0.0.1:{metrics.port}/metrics"
        async with server.run(listen_addrs=[LOOPBACK]), client.run(listen_addrs=[LOOPBACK]):
            await client.connect(PeerInfo(server.get_id(), server.get_addrs()))
            page = await trio.to_thread.run_sync(read, url)
    print(url)
    for line in page.splitlines():
        if line.startswith(("libp2p_rcmgr_connections", "rcmgr_connections{")):
            print(line)
    rcmgr.uninstall()


trio.run(main)
