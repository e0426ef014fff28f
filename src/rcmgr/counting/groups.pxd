"""For our other compiled modules: the kinds of scopes, groups, and refusals."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

from rcmgr.counting._hash cimport PyObject_Hash
from rcmgr.counting._pointer_table cimport rcmgr_table, rcmgr_table_mix
from rcmgr.counting._scope cimport rcmgr_kind_of, rcmgr_limit, rcmgr_refusal, rcmgr_scope


cdef enum Kind:
    SYSTEM
    TRANSIENT
    ALLOWLISTED_SYSTEM
    ALLOWLISTED_TRANSIENT
    FIXED_KINDS  # the ones above exist once, always
    SERVICE = FIXED_KINDS
    PROTOCOL
    PEER
    SERVICE_PEER
    PROTOCOL_PEER
    CONN
    STREAM
    KINDS

cdef enum:
    NO_KIND = -1

cdef enum Direction:
    NO_DIRECTION
    INBOUND
    OUTBOUND
    DIRECTIONS

# the source of a limit
cdef enum Origin:
    BY_LIMITS
    BY_LIMITER
    BY_SET_LIMIT

cdef tuple DIRECTION_NAMES
cdef tuple KIND_NAMES
cdef tuple LIMIT_NAMES
cdef tuple RESOURCE_FIELDS
cdef tuple RESOURCE_TEXTS


@cython.final
cdef class GroupLimit:
    cdef rcmgr_limit value
    cdef int origin


cdef class Group


# The groups of one kind by name or peer, or the shares of one group by peer. The lock of the
# ledger guards it.
@cython.final
cdef class GroupTable:
    cdef rcmgr_table table


cdef inline uint64_t hash_of(object key) except? 0:
    """The hash of a key in a table: exact bytes, str or int."""
    return rcmgr_table_mix(PyObject_Hash(key))


# Borrowed. NULL: there is no such group.
cdef PyObject *find(GroupTable groups, object key, uint64_t hashed) noexcept
# The group with the key of this one. It is this one, newly added, unless the table had another.
# It may raise MemoryError.
cdef Group found_or_added(GroupTable groups, Group group, uint64_t hashed)
cdef void remove(GroupTable groups, Group group) noexcept
cdef list groups_in(GroupTable groups)


# The lock of the ledger guards what changes: everything but the kind, the name and the peer.
# There is one for each peer: with the head of an object it has 96 bytes, a line and a half. So a
# group of a peer has no field that only others need, and its kind and pins are in `state`.
cdef class Group:
    cdef rcmgr_scope state
    cdef GroupLimit limit  # keeps state.limit alive; None: state.limit is a ledger's default
    cdef object peer       # None: the group is no peer and no peer's share
    cdef uint32_t acquired[2][2]      # a peer's streams without a handle: [exempt][outbound]
    cdef uint32_t exempt_connections  # a peer's connections charged to allowlisted scopes
    cdef uint32_t streams_begun       # a peer's inbound streams since it has been here


# A service, a protocol, or a peer's share of one.
@cython.final
cdef class NamedGroup(Group):
    cdef object name
    cdef GroupTable shares  # the peers' shares of a service or protocol; None: it never had one
    cdef NamedGroup whole   # the service or protocol of a share, which pins it


cdef inline int group_kind(Group group) noexcept:
    return rcmgr_kind_of(&group.state)


cdef inline object name_of(Group group):
    """The service or protocol; None: neither."""
    return (<NamedGroup>group).name if type(group) is NamedGroup else None


cdef str text_of(Group group)  # its name, for people


@cython.final
cdef class Refusal:
    cdef Group blamed       # None: the leaf
    cdef Group view_group   # None: no view asked
    cdef tuple spans        # names of the one that asked, and of the one that refused or None
    cdef int leaf_kind      # NO_KIND: no leaf asked
    cdef uint64_t leaf_number
    cdef int what
    cdef readonly int priority
    """The priority of a memory reservation, 0 to 255."""
    cdef readonly int64_t current
    """How much the scope that refused was holding."""
    cdef readonly int64_t attempted
    """How much more was asked for."""
    cdef readonly int64_t limit
    """Its limit. A memory reservation of low priority may fill only a part of the limit."""
    cdef int origin         # the source of its limit
    cdef readonly bint has_own_limit
    """Whether the limit is one of this name alone, and not the default."""

    cdef str leaf(self)


cdef object code_of(Refusal refusal)
cdef object code_of_kind(int kind, int what)
cdef int kind_of(Refusal refusal) noexcept
cdef str leaf_name(int kind, uint64_t number)
cdef GroupLimit read_limit(object source)
cdef Group new_group(int kind, object name, object peer)
cdef Refusal new_refusal(
    const rcmgr_refusal *why, int priority, Group blamed, int leaf_kind, uint64_t leaf_number,
    Group view_group)
