"""For our other compiled modules: the key of a peer without the cost of a Python call."""

cdef object key_of_text(str text)
cpdef object peer_from_any(object peer)
cpdef str peer_text(object peer)


cdef inline object key_of(object peer):
    """See `peer_key`. No Python code runs, except for text that is not in the cache."""
    if type(peer) is bytes:
        return peer
    if type(peer) is not str:
        return getattr(peer, "_bytes", peer)
    return key_of_text(peer)


cdef inline object exact_peer(object peer):
    """The key of a peer in a dict: hashing and comparing it runs no Python code."""
    peer = key_of(peer)
    if type(peer) is bytes or type(peer) is str or type(peer) is int:
        return peer
    raise TypeError(f"a peer must be an ID, bytes, a str or an int, not {peer!r}")
