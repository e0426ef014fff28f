cdef inline object peer_key(object peer):
    """What stands for a peer in our tables: the bytes of a py-libp2p `ID`, else the object itself.

    An `ID` hashes in Python (about 80 ns, and it may let other threads in); its `_bytes` does
    not. So `ID(b)` and `b` are one peer everywhere in rcmgr.
    """
    if type(peer) is bytes or type(peer) is str:
        return peer
    return getattr(peer, "_bytes", peer)
