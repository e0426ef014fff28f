"""How py-libp2p names peers in its calls, and what of it our tables use as keys."""

cimport cython

from rcmgr._peer cimport peer_key as key_of

__all__ = ["peer_from_any", "peer_key", "peer_text"]

# texts of the shortest and the usual peer ids: sha2-256 multihash, inlined public keys
cdef tuple TEXT_PREFIXES = ("Qm", "12D3Koo", "16Uiu2H")
cdef enum:
    SHORTEST_TEXT = 40
    HALF_OF_TEXTS = 16_384  # of 200 bytes each, and 60 for the bytes of the peer


@cython.final
@cython.no_gc
cdef class Texts:
    """Bytes of peers by their text, which take 8 us to decode: those asked for last.

    Two halves: when the young one is full it becomes the old one, and the old one is forgotten. So
    what was asked for lately stays, however many peers come by, and nothing ever scans.
    """

    cdef dict young, old

    def __cinit__(self):
        self.young, self.old = {}, {}

    cdef object bytes_of(self, str text):
        cdef dict young, old
        with cython.critical_section(self):
            young, old = self.young, self.old
        peer = young.get(text)
        if peer is not None:
            return peer
        if len(text) < SHORTEST_TEXT or not text.startswith(TEXT_PREFIXES):
            return text
        peer = old.get(text)
        if peer is None:
            peer = decoded(text)
        if len(young) >= HALF_OF_TEXTS:
            fresh = {}
            with cython.critical_section(self):
                if self.young is young:
                    self.young, self.old = fresh, young
                    young = fresh
        young[text] = peer
        return peer


cdef Texts TEXTS = Texts()


cdef object decoded(str text):
    import base58  # only where peers are named by text; it takes 4 ms to load

    try:
        return base58.b58decode(text)
    except ValueError:
        return text


def peer_key(peer):
    """The bytes of an `ID`, anything else as it is: equal for all names of a peer but its text."""
    return key_of(peer)


cpdef object peer_from_any(object peer):
    """The bytes of a peer id given as base58 text; an `ID`, bytes or another hashable as it is.

    About 30 ns; 8 us for a text that is not among the 16,384 asked for last.
    """
    if type(peer) is not str:
        return peer
    return TEXTS.bytes_of(peer)


cpdef str peer_text(object peer):
    """A peer id for people and JSON: base58, as py-libp2p writes it; other keys as text."""
    if type(peer) is not bytes:
        return str(peer)
    import base58

    return base58.b58encode(peer).decode()
