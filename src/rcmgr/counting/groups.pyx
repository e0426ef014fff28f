"""The groups that scopes are charged to, their names, and what a refusal says."""

cimport cython
from cpython.mem cimport PyMem_RawFree
from cpython.object cimport Py_EQ, PyObject, PyObject_RichCompareBool
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from rcmgr.counting._pointer_table cimport (
    rcmgr_table, rcmgr_table_after, rcmgr_table_home, rcmgr_table_item, rcmgr_table_match,
    rcmgr_table_put, rcmgr_table_remove, table_fit,
)
from rcmgr.counting._prefetch cimport rcmgr_prefetch_object
from rcmgr.counting._scope cimport (
    RCMGR_MEMORY, RCMGR_RESOURCES, RCMGR_STREAMS, RCMGR_STREAMS_INBOUND, RCMGR_STREAMS_OUTBOUND,
    RCMGR_UNLIMITED, rcmgr_refusal, rcmgr_set_kind,
)
from rcmgr.peers cimport peer_text

from rcmgr.errors import MemoryReservationExceeded, ScopeLimitExceeded, StreamLimitExceeded
from rcmgr.limits.checks import check_limit
from rcmgr.limits.codes import RESOURCES, SCOPES, scope_code

__all__ = ["Refusal"]

ORIGIN_NAMES = ("", "limiter", "set_limit")
DIRECTION_NAMES = ("", "inbound", "outbound")
# by Kind
KIND_NAMES = (
    "system", "transient", "allowlistedSystem", "allowlistedTransient", "service", "protocol",
    "peer", "service-peer", "protocol-peer", "conn", "stream",
)
# by Kind, two attributes of a limits object: the default, and the mapping of particular limits
LIMIT_NAMES = (
    ("system", None), ("transient", None), ("allowlisted_system", None),
    ("allowlisted_transient", None), ("service_default", "service"),
    ("protocol_default", "protocol"), ("peer_default", "peer"),
    ("service_peer_default", "service_peer"), ("protocol_peer_default", "protocol_peer"),
    ("conn", None), ("stream", None),
)
# by the resources of scope.h: the field of a limit, and the words of an error
RESOURCE_FIELDS = RESOURCES
RESOURCE_TEXTS = (
    "memory", "inbound stream", "outbound stream", "inbound connection", "outbound connection",
    "file descriptor", "stream", "connection",
)
# by Kind and resource: the code of an error
cdef tuple CODES = tuple([scope_code(scope, field) for scope in SCOPES for field in RESOURCES])


@cython.final
@cython.no_gc
cdef class GroupLimit:
    """The limit of one group, or of the groups of one name."""


@cython.no_gc
@cython.freelist(64)
cdef class Group:
    """Connections and streams are charged to groups: the system, a peer, a protocol, ...

    It is in its table while `pins` > 0. The groups that exist once have no pins.
    """


@cython.final
@cython.no_gc
cdef class NamedGroup(Group):
    """A group with a name."""


cdef str text_of(Group group):
    cdef str text = KIND_NAMES[group_kind(group)]
    name = name_of(group)
    if group_kind(group) == PEER:
        return f"peer:{peer_text(group.peer)}"
    if name is not None:
        text = f"{text.partition('-')[0]}:{name}"
        if group.peer is not None:
            text = f"{text}.peer:{peer_text(group.peer)}"
    return text


@cython.final
@cython.no_gc
cdef class GroupTable:
    """Groups by key: the name, or the peer if they have one."""

    def __cinit__(self):
        memset(&self.table, 0, sizeof(rcmgr_table))
        if not table_fit(&self.table):
            raise MemoryError

    def __dealloc__(self):
        cdef size_t at
        if self.table.slots is NULL:
            return
        for at in range(self.table.count):
            if rcmgr_table_item(&self.table, at) is not NULL:
                Py_DECREF(<Group>rcmgr_table_item(&self.table, at))
        PyMem_RawFree(self.table.slots)

    def __len__(self):
        return self.table.used


cdef inline object key_of(PyObject *group):
    return name_of(<Group>group) if (<Group>group).peer is None else (<Group>group).peer


cdef inline PyObject *search(
    GroupTable groups, object key, uint64_t hashed, size_t *at,
) noexcept:
    """The group, borrowed, and its place. NULL: the table lacks it, and `at` is its place."""
    cdef rcmgr_table *table = &groups.table
    cdef PyObject *group
    at[0] = rcmgr_table_home(table, hashed)
    while rcmgr_table_match(table, hashed, at):
        group = <PyObject *>rcmgr_table_item(table, at[0])
        rcmgr_prefetch_object(group)
        # the types of keys are exact: this runs no Python code, and cannot fail
        if PyObject_RichCompareBool(key_of(group), key, Py_EQ) > 0:
            return group
        at[0] = rcmgr_table_after(table, at[0])
    return NULL


cdef PyObject *find(GroupTable groups, object key, uint64_t hashed) noexcept:
    cdef size_t at
    return search(groups, key, hashed, &at)


cdef Group found_or_added(GroupTable groups, Group group, uint64_t hashed):
    cdef size_t at
    cdef PyObject *found
    if not table_fit(&groups.table):
        raise MemoryError
    found = search(groups, key_of(<PyObject *>group), hashed, &at)
    if found is not NULL:
        return <Group>found
    Py_INCREF(group)
    rcmgr_table_put(&groups.table, at, hashed, <void *>group)
    return group


cdef void remove(GroupTable groups, Group group) noexcept:
    """It must be in the table."""
    cdef rcmgr_table *table = &groups.table
    cdef size_t at
    search(groups, key_of(<PyObject *>group), hash_of(key_of(<PyObject *>group)), &at)
    rcmgr_table_remove(table, at)
    Py_DECREF(group)


cdef list groups_in(GroupTable groups):
    """Making the list may start the garbage collector, which runs other code."""
    cdef rcmgr_table *table = &groups.table
    cdef list found = []
    cdef size_t at
    cdef Py_ssize_t n = 0
    while <size_t>len(found) != table.used:
        found = [None] * <Py_ssize_t>table.used
    for at in range(table.count):
        if rcmgr_table_item(table, at) is not NULL:
            found[n] = <Group>rcmgr_table_item(table, at)
            n += 1
    return found


@cython.final
@cython.no_gc
@cython.freelist(16)
cdef class Refusal:
    """Refusal()\n--\n
    Why a request was refused. False, unlike the answer to a request that was granted.

    Making one formats no text. It holds no resource and keeps no leaf alive. Immutable.
    """

    def __bool__(self):
        return False

    cdef str leaf(self):
        return None if self.leaf_kind == NO_KIND else leaf_name(self.leaf_kind, self.leaf_number)

    @property
    def scope(self):
        """Name of the scope that refused."""
        if self.spans is not None and self.spans[1] is not None:
            return self.spans[1]
        return self.leaf() if self.blamed is None else text_of(self.blamed)

    @property
    def asked_by(self):
        """Name of the scope that asked. None: a move to another group, or a counted stream."""
        if self.spans is not None:
            return self.spans[0]
        return self.leaf() if self.view_group is None else text_of(self.view_group)

    @property
    def code(self):
        """The code of its error, in a fraction of the time."""
        return code_of(self)

    @property
    def resource(self):
        """The resource that ran out: "memory", "inbound stream", "file descriptor", ..."""
        return RESOURCE_TEXTS[self.what]

    def to_error(self, connection_id=None, peer_id=None):
        """The ScopeLimitExceeded that describes it. peer_id: the peer it names, if any."""
        scope, asked_by = self.scope, self.asked_by
        error = ScopeLimitExceeded
        if self.what == RCMGR_MEMORY:
            error = MemoryReservationExceeded
        elif self.what in (RCMGR_STREAMS, RCMGR_STREAMS_INBOUND, RCMGR_STREAMS_OUTBOUND):
            error = StreamLimitExceeded
        return error(
            scope, self.resource, self.current, self.attempted, self.limit, self.priority,
            None if asked_by == scope else asked_by, peer_id, connection_id,
            has_own_limit=self.has_own_limit, limited_by=ORIGIN_NAMES[self.origin],
        )

    def __repr__(self):
        return f"Refusal({str(self.to_error())!r})"


cdef int kind_of(Refusal refusal) noexcept:
    """The kind of the scope in the code of its error."""
    cdef int kind = refusal.leaf_kind if refusal.blamed is None else group_kind(refusal.blamed)
    return <int>max(0, kind)


cdef object code_of_kind(int kind, int what):
    return CODES[kind * RCMGR_RESOURCES + what]


cdef object code_of(Refusal refusal):
    return code_of_kind(kind_of(refusal), refusal.what)


cdef str leaf_name(int kind, uint64_t number):
    return f"{KIND_NAMES[kind]}-{number}"


cdef GroupLimit read_limit(object source):
    """source: an object with the attributes of `rcmgr.Limit`."""
    cdef GroupLimit limit = GroupLimit.__new__(GroupLimit)
    cdef int i
    cdef int64_t value
    for i in range(RCMGR_RESOURCES):
        field = getattr(source, RESOURCE_FIELDS[i])
        check_limit(RESOURCE_FIELDS[i], field)
        value = RCMGR_UNLIMITED if field is None or field > RCMGR_UNLIMITED else field
        limit.value.of[i] = value
    return limit


# the two constructors: `__new__` from another module takes 25 instructions more

cdef Group new_group(int kind, object name, object peer):
    """Without a limit: bind it to one before it is charged."""
    cdef Group group
    if name is None:
        group = Group.__new__(Group)
    else:
        group = NamedGroup.__new__(NamedGroup)
        (<NamedGroup>group).name = name
    rcmgr_set_kind(&group.state, kind)
    group.peer = peer
    return group


cdef Refusal new_refusal(
    const rcmgr_refusal *why, int priority, Group blamed, int leaf_kind, uint64_t leaf_number,
    Group view_group,
):
    cdef Refusal refusal = Refusal.__new__(Refusal)
    refusal.blamed = blamed
    refusal.view_group = view_group
    refusal.leaf_kind = leaf_kind
    refusal.leaf_number = leaf_number
    refusal.what = why.resource
    refusal.priority = priority
    refusal.current = why.held
    refusal.attempted = why.asked
    refusal.limit = why.limit
    refusal.has_own_limit = blamed is not None and blamed.limit is not None
    if refusal.has_own_limit:
        refusal.origin = blamed.limit.origin
    return refusal
