"""For our other compiled modules: the key of a peer without the cost of a Python call."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

cdef enum:
    LONGEST_PEER = 64  # libp2p's peer ids have 44 bytes at most
    LONGEST_NAME = 256
    DIGEST_SIZE = 33
    DIGEST_MARK = 0xFF  # no peer id begins with it


cdef bytes digest_of(bytes peer)
cdef object key_of_object(object peer)  # `key_of`, for all except short bytes
cpdef str bounded_name(str name)
cpdef object peer_from_any(object peer)
cpdef str peer_text(object peer)


cdef inline object key_of(object peer):
    """See `peer_key`. No Python code runs, except for text that is not in the cache."""
    if type(peer) is bytes and PyBytes_GET_SIZE(peer) <= LONGEST_PEER:
        return peer
    return key_of_object(peer)


cdef inline object kept_peer(object peer, object key):
    """The peer as it was given, or its key if it is too long to be kept."""
    if key is peer:
        return peer
    if type(peer) is str:
        return peer if len(<str>peer) <= LONGEST_NAME else key
    if (
        type(key) is bytes and PyBytes_GET_SIZE(key) == DIGEST_SIZE
        and <unsigned char>PyBytes_AS_STRING(key)[0] == DIGEST_MARK
    ):
        return key
    return peer


cdef inline object exact_peer(object peer):
    """The key of a peer in a dict: hashing and comparing it runs no Python code."""
    peer = key_of(peer)
    if type(peer) is bytes or type(peer) is str or type(peer) is int:
        return peer
    raise TypeError(f"a peer must be an ID, bytes, a str or an int, not {peer!r}")
