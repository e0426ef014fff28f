"""One key for one peer, whether a caller has an `ID`, its bytes or its text.

An `ID` is no key: hashing it runs Python code, which takes 80 ns and may let another thread run.

Strangers choose peer ids and names. So a key has a largest size: a longer id is known by its
digest, and a longer text is cut.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE

__all__ = ["bounded_name", "bounded_peer", "peer_from_any", "peer_key", "peer_text"]

# Peer ids are multihashes: sha2-256, or a short public key itself ("identity").
cdef tuple BASE58_PREFIXES = ("Qm", "12D3Koo", "16Uiu2H")
# The multibases that libp2p uses for peer ids: base32, base36, base58btc.
cdef tuple MULTIBASE_PREFIXES = ("b", "k", "z")
cdef bytes CID_PREFIX = b"\x01\x72"  # version 1, codec libp2p-key
cdef bytes SHA2_256_PREFIX = b"\x12\x20"
cdef enum:
    SHORTEST_TEXT = 40
    LONGEST_TEXT = 80
    HALF_OF_TEXTS = 16_384  # each takes 200 bytes, and 60 for the bytes of the peer


@cython.final
@cython.no_gc
cdef class TextCache:
    """The bytes of the peers last named by text. Decoding takes 8 us.

    It has two halves. A full young half replaces the old one, and the old one is forgotten. So the
    texts used lately stay, the memory is bounded, and nothing scans.
    """

    cdef dict young, old

    def __cinit__(self):
        self.young, self.old = {}, {}

    cdef object key_of(self, str text):
        cdef dict young, old
        with cython.critical_section(self):
            young, old = self.young, self.old
        peer = young.get(text)
        if peer is not None:
            return peer
        if not SHORTEST_TEXT <= len(text) <= LONGEST_TEXT:
            return bounded_name(text)
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


cdef TextCache CACHE = TextCache()


cdef object decoded(str text):
    """The bytes of the peer; the text itself if it is no peer id."""
    try:
        if text.startswith(BASE58_PREFIXES):
            return base58_decoded(text)
        if text.startswith(MULTIBASE_PREFIXES):
            peer = multibase_decoded(text).removeprefix(CID_PREFIX)
            if is_peer_id(peer):
                return peer
    except ValueError:
        pass  # no digits of its base
    return text


cdef bytes multibase_decoded(str text):
    import base64

    digits = text[1:]
    if text[0] == "b":
        return base64.b32decode(digits.upper() + "=" * (-len(digits) % 8))
    if text[0] == "z":
        return base58_decoded(digits)
    if not (digits.isascii() and digits.isalnum()):
        raise ValueError(digits)  # `int` takes signs, spaces and underscores
    number = int(digits, 36)
    zeros = len(digits) - len(digits.lstrip("0"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


cdef bytes base58_decoded(str text):
    import base58  # loading it takes 4 ms, and most programs have no use for it

    return base58.b58decode(text)


cdef bint is_peer_id(bytes peer):
    if peer.startswith(SHA2_256_PREFIX):
        return len(peer) == 34
    return len(peer) > 2 and peer[0] == 0 and peer[1] == len(peer) - 2


cdef object key_of_text(str text):
    return CACHE.key_of(text)


cdef object key_of_object(object peer):
    if type(peer) is str:
        return key_of_text(peer)
    peer = getattr(peer, "_bytes", peer)
    if type(peer) is bytes and PyBytes_GET_SIZE(peer) > LONGEST_PEER:
        return digest_of(<bytes>peer)
    return peer


cdef bytes digest_of(bytes peer):
    """The key of a peer id that is too long. It is no peer id itself."""
    from hashlib import blake2b  # loading it takes milliseconds, and honest peers have short ids

    digest = blake2b(peer, digest_size=DIGEST_SIZE - 1, person=b"rcmgr peer id").digest()
    return bytes((DIGEST_MARK,)) + digest


cpdef str bounded_name(str name):
    """The name if it has at most 256 characters. Otherwise the first 128, and a digest."""
    if len(name) <= LONGEST_NAME:
        return name
    from hashlib import blake2b

    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16, person=b"rcmgr name")
    return f"{name[:LONGEST_NAME // 2]}...{digest.hexdigest()}"


def peer_key(peer):
    """The key of a peer in our tables: the bytes of an `ID`, of its text, or the bytes themselves.

    Text is base58, or multibase in base32, base36 or base58btc, with or without the prefix of a
    CID. Anything else is its own key, also text that is no peer id. Text takes about 30 ns, or 8 us
    if it is not among the 16,384 texts used last. An id of more than 64 bytes has its digest as its
    key, and a longer text than 256 characters is cut (`bounded_name`).
    """
    return key_of(peer)


cpdef object peer_from_any(object peer):
    """The bytes of a peer named by text, as `peer_key`; anything else as it is."""
    if type(peer) is str:
        return key_of_text(peer)
    return peer


def bounded_peer(peer):
    """As `peer_from_any`, for a peer that is kept: the key of one whose id is too long."""
    return kept_peer(peer_from_any(peer), key_of(peer))


cpdef str peer_text(object peer):
    """A peer id for people and JSON: base58, as py-libp2p writes it. Other keys as text."""
    if type(peer) is not bytes:
        return str(peer)
    import base58

    return base58.b58encode(peer).decode()
