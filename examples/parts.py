"""The parts work without libp2p, under asyncio and under trio."""

import asyncio

import trio

from rcmgr import ConcreteLimits, ConnectionLimits, ConnectionTracker, Ledger, Limit, TokenBucket


async def take_six(bucket, clock):
    began = clock()
    for _ in range(6):
        await bucket.wait()
    print(f"6 tokens of a bucket with 5 and 10 a second: {clock() - began:.1f} s")


def connections():
    tracker = ConnectionTracker()
    limits = ConnectionLimits(max_established_per_peer=1)
    for name in ("connection 1", "connection 2"):
        denial = tracker.admit_established_inbound(name, b"peer", limits)
        print(f"{name}:", "admitted" if denial is None else denial.to_error(name, b"peer"))


def scopes():
    ledger = Ledger(ConcreteLimits(peer_default=Limit(memory=100_000)))
    with ledger.open_stream(b"peer", inbound=True) as stream:
        stream.reserve_memory(65536)
        refusal = stream.try_reserve_memory(65536)
        print("65,536 more bytes:", refusal.to_error())
    print("bytes that are still reserved:", ledger.system().stat().memory)


connections()
scopes()
asyncio.run(take_six(TokenBucket(5, 10), lambda: asyncio.get_running_loop().time()))
trio.run(take_six, TokenBucket(5, 10), trio.current_time)
