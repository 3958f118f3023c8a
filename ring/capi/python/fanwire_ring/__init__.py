"""A lock-free broadcast ring between threads and processes.

Many writers, and every reader receives every record in the same order. Writers wait for readers by getting
`Full`; observers are not waited for and learn how many records they missed.

A ring or a writer may be used by several threads. A reader or an observer belongs to one at a time.
"""

import ctypes
import os
from typing import Iterable, List, NamedTuple, Optional, Union

__all__ = ["Damaged", "Disconnected", "Full", "Info", "Listener", "Missed", "Observer", "Publisher", "Reader", "Record",
           "Ring", "RingError", "Writer"]

_ABI_VERSION = 1
_EMPTY, _FULL, _TOO_LARGE, _MISSED, _TIMEOUT, _DAMAGED, _DISCONNECTED = 1, 2, 3, 5, 6, 10, 14
_TARGET = {None: 0, "user": 1, "role": 2, "permission": 3, "except_session": 4}
_START = {"tail": 0, "oldest": 1, "at": 2}

Bytes = Union[bytes, bytearray, memoryview]


class RingError(Exception):
    """A call failed; `status` is that of the C API."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class Full(RingError):
    """The ring has no room: a reader has not read enough yet."""


class Missed(RingError):
    """Writers have overtaken a reader that was put out of the gate. It has caught up."""


class Damaged(RingError):
    """A peer has damaged the memory of the ring."""


class Disconnected(RingError):
    """The server is gone. Connect again."""


class Record(NamedTuple):
    """A record of a ring."""

    position: int
    tag: int
    payload: bytes


class Info(NamedTuple):
    """What a ring tells about itself; bytes."""

    capacity_bytes: int
    record_bytes_max: int
    readers_max: int
    is_damaged: bool
    tail_position: int
    depth_bytes: int
    held_bytes: int
    aborted_total: int
    retirements_total: int


class _Record(ctypes.Structure):
    _fields_ = [
        ("position", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("tag", ctypes.c_uint64),
        ("payload", ctypes.c_void_p),
        ("payload_bytes", ctypes.c_size_t),
    ]


class _Input(ctypes.Structure):
    _fields_ = [
        ("tag", ctypes.c_uint64),
        ("payload", ctypes.c_char_p),
        ("payload_bytes", ctypes.c_size_t),
    ]


class _Text(ctypes.Structure):
    _fields_ = [("text", ctypes.c_char_p), ("bytes", ctypes.c_size_t)]


class _Publication(ctypes.Structure):
    _fields_ = [
        ("channel", _Text),
        ("kind", _Text),
        ("data", ctypes.c_char_p),
        ("data_bytes", ctypes.c_size_t),
        ("content", ctypes.c_uint32),
        ("target_kind", ctypes.c_uint32),
        ("target", _Text),
        ("scope", ctypes.c_uint32),
        ("tenant", _Text),
    ]


class _Config(ctypes.Structure):
    _fields_ = [
        ("capacity_bytes", ctypes.c_uint32),
        ("readers_max", ctypes.c_uint32),
        ("peers_max", ctypes.c_uint32),
        ("writers_max", ctypes.c_uint32),
    ]


class _Info(ctypes.Structure):
    _fields_ = [
        ("capacity_bytes", ctypes.c_uint32),
        ("record_bytes_max", ctypes.c_uint32),
        ("readers_max", ctypes.c_uint32),
        ("is_damaged", ctypes.c_bool),
        ("tail_position", ctypes.c_uint64),
        ("depth_bytes", ctypes.c_uint64),
        ("held_bytes", ctypes.c_uint64),
        ("aborted_total", ctypes.c_uint64),
        ("retirements_total", ctypes.c_uint64),
    ]


_VISIT = ctypes.CFUNCTYPE(
    ctypes.c_bool, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t
)


def _load() -> ctypes.CDLL:
    beside = os.path.join(os.path.dirname(__file__), "libfanwire_ring.so")
    named = os.environ.get("FANWIRE_RING_LIBRARY")
    library = ctypes.CDLL(named or (beside if os.path.exists(beside) else "libfanwire_ring.so"))
    library.fanwire_ring_last_error.restype = ctypes.c_char_p
    handle, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    size, text, out = ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p
    signatures = {
        "abi_version": (),
        "new": (u32, u32, u32, out),
        "free": (handle,),
        "info": (handle, out),
        "put_out": (handle, u32, out),
        "new_memfd": (u32, text, out, out),
        "new_named": (u32, text, out, out),
        "open_named": (u32, text, out),
        "observe_named": (u32, text, out),
        "unlink": (text,),
        "connect": (u32, text, out),
        "from_fd": (u32, ctypes.c_int, out),
        "fd": (handle, out),
        "listener_new": (text, ctypes.c_bool, out),
        "listener_fd": (handle, out),
        "listener_serve": (handle, handle),
        "listener_free": (handle,),
        "writer_new": (handle, out),
        "writer_free": (handle,),
        "writer_write": (handle, u64, text, size, out),
        "writer_write_batch": (handle, out, size, out),
        "writer_wake": (handle,),
        "reader_new": (handle, out),
        "reader_free": (handle,),
        "reader_index": (handle, out),
        "reader_drain": (handle, size, _VISIT, ctypes.c_void_p, out),
        "reader_wait": (handle, u32, ctypes.c_int64),
        "publisher_connect": (u32, text, out),
        "publisher_publish": (handle, out, u64),
        "publisher_flush": (handle, u64),
        "publisher_free": (handle,),
        "observer_new": (handle, u32, u64, u64, out),
        "observer_free": (handle,),
        "observer_next": (handle, out, out),
        "observer_bookmark": (handle, out, out),
    }
    for name, arguments in signatures.items():
        function = getattr(library, "fanwire_ring_" + name)
        function.argtypes = arguments
        function.restype = None if name.endswith("free") else ctypes.c_int
    version = library.fanwire_ring_abi_version()
    if version != _ABI_VERSION:
        raise ImportError(f"libfanwire_ring.so has ABI version {version}, not {_ABI_VERSION}")
    return library


_LIBRARY = _load()


def _error(status: int) -> RingError:
    kinds = {_FULL: (Full, "the ring is full"), _MISSED: (Missed, None), _DAMAGED: (Damaged, None),
             _DISCONNECTED: (Disconnected, None)}
    kind, text = kinds.get(status, (RingError, None))
    said = _LIBRARY.fanwire_ring_last_error().decode(errors="replace")
    return kind(status, text or said)


def _check(status: int) -> None:
    if status:
        raise _error(status)


class _Handle:
    """A handle of the library, freed with its object or before by `close`."""

    _kind = ""

    def __init__(self, name: str, *arguments):
        handle = ctypes.c_void_p()
        _check(getattr(_LIBRARY, "fanwire_ring_" + name)(*arguments, ctypes.byref(handle)))
        self._handle = handle

    def close(self) -> None:
        """Gives it back; more than once is no error."""
        handle, self._handle = getattr(self, "_handle", None), None
        if handle:
            getattr(_LIBRARY, f"fanwire_ring_{self._kind}free")(handle)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        self.close()


class Ring(_Handle):
    """A ring in this process; the class methods make and find those between processes."""

    def __init__(self, capacity_bytes: int, readers_max: int):
        """`capacity_bytes` is a power of two of at least 4096, `readers_max` is 1 to 1023."""
        super().__init__("new", _ABI_VERSION, capacity_bytes, readers_max)

    @classmethod
    def _made(cls, name: str, *arguments) -> "Ring":
        ring = cls.__new__(cls)
        _Handle.__init__(ring, name, _ABI_VERSION, *arguments)
        return ring

    @classmethod
    def memfd(cls, capacity_bytes: int, readers_max: int, name: str = "fanwire-ring",
              peers_max: int = 0, writers_max: int = 0) -> "Ring":
        """A ring in a memfd, which others get from a `Listener`, or inherit."""
        config = _Config(capacity_bytes, readers_max, peers_max, writers_max)
        return cls._made("new_memfd", name.encode(), ctypes.byref(config))

    @classmethod
    def create(cls, name: str, capacity_bytes: int, readers_max: int,
               peers_max: int = 0, writers_max: int = 0) -> "Ring":
        """A ring in /dev/shm, for processes of this user that trust each other."""
        config = _Config(capacity_bytes, readers_max, peers_max, writers_max)
        return cls._made("new_named", name.encode(), ctypes.byref(config))

    @classmethod
    def open(cls, name: str) -> "Ring":
        """The ring of this name in /dev/shm."""
        return cls._made("open_named", name.encode())

    @classmethod
    def observe(cls, name: str) -> "Ring":
        """The same for observers alone."""
        return cls._made("observe_named", name.encode())

    @classmethod
    def connect(cls, socket_path: Union[str, "os.PathLike[str]"]) -> "Ring":
        """The ring that a listener gives at this path."""
        return cls._made("connect", os.fsencode(socket_path))

    @classmethod
    def from_fd(cls, fd: int) -> "Ring":
        """The ring in a memfd; the descriptor stays the caller's."""
        return cls._made("from_fd", fd)

    @staticmethod
    def unlink(name: str) -> None:
        """Takes a name in /dev/shm away."""
        _check(_LIBRARY.fanwire_ring_unlink(name.encode()))

    def fileno(self) -> int:
        """The descriptor of the ring's memfd or file."""
        fd = ctypes.c_int()
        _check(_LIBRARY.fanwire_ring_fd(self._handle, ctypes.byref(fd)))
        return fd.value

    def info(self) -> Info:
        """How full the ring is, and more."""
        info = _Info()
        _check(_LIBRARY.fanwire_ring_info(self._handle, ctypes.byref(info)))
        return Info(*(getattr(info, name) for name, _ in _Info._fields_))

    def put_out(self, reader_index: int) -> bool:
        """Lets writers wait for this reader no longer; false if they did not."""
        was_in_gate = ctypes.c_bool()
        _check(_LIBRARY.fanwire_ring_put_out(self._handle, reader_index, ctypes.byref(was_in_gate)))
        return was_in_gate.value

    def writer(self) -> "Writer":
        """A writer."""
        return Writer(self)

    def reader(self) -> "Reader":
        """A reader of all that is written from now on; writers wait for it."""
        return Reader(self)

    def observer(self, start: str = "tail", position: int = 0, number: int = 0) -> "Observer":
        """An observer from "tail", "oldest" or "at" a place; nobody waits for it."""
        return Observer(self, start, position, number)


class Writer(_Handle):
    """Writes records into a ring."""

    _kind = "writer_"

    def __init__(self, ring: Ring):
        super().__init__("writer_new", ring._handle)

    def write(self, payload: Bytes, tag: int = 0, wake: bool = True) -> int:
        """Writes a record and returns its position; raises `Full` when there is no room."""
        if not isinstance(payload, bytes):
            payload = bytes(payload)
        position = ctypes.c_uint64()
        _check(_LIBRARY.fanwire_ring_writer_write(self._handle, tag, payload, len(payload), ctypes.byref(position)))
        if wake:
            self.wake()
        return position.value

    def write_batch(self, payloads: Iterable[Bytes], tag: int = 0) -> int:
        """Writes records until one does not fit, wakes readers, and returns how many were written."""
        payloads = [payload if isinstance(payload, bytes) else bytes(payload) for payload in payloads]
        inputs = (_Input * len(payloads))(*((tag, payload, len(payload)) for payload in payloads))
        written = ctypes.c_size_t()
        status = _LIBRARY.fanwire_ring_writer_write_batch(self._handle, inputs, len(payloads), ctypes.byref(written))
        if status and status != _FULL:
            raise _error(status)
        return written.value

    def wake(self) -> None:
        """Wakes readers that sleep."""
        _check(_LIBRARY.fanwire_ring_writer_wake(self._handle))


class Reader(_Handle):
    """Reads every record."""

    _kind = "reader_"

    def __init__(self, ring: Ring):
        super().__init__("reader_new", ring._handle)

    @property
    def index(self) -> int:
        """The reader's slot, which `Ring.put_out` takes."""
        index = ctypes.c_uint32()
        _check(_LIBRARY.fanwire_ring_reader_index(self._handle, ctypes.byref(index)))
        return index.value

    def read(self, records_max: int = 256) -> List[Record]:
        """The records that are there now, none if there are none; raises `Missed` after `Ring.put_out`."""
        found: List[Record] = []

        def visit(_, position, tag, payload, payload_bytes):
            found.append(Record(position, tag, ctypes.string_at(payload, payload_bytes)))
            return True

        _check(_LIBRARY.fanwire_ring_reader_drain(self._handle, records_max, _VISIT(visit), None, None))
        return found

    def wait(self, timeout: Optional[float] = None, records_max: int = 256) -> List[Record]:
        """The same, but waits until there are some; none when `timeout` (seconds) is over."""
        nanoseconds = -1 if timeout is None else int(timeout * 1e9)
        status = _LIBRARY.fanwire_ring_reader_wait(self._handle, 100, nanoseconds)
        if status == _TIMEOUT:
            return []
        _check(status)
        return self.read(records_max)


class Observer(_Handle):
    """Reads records without being waited for; `missed` counts those that were overwritten."""

    _kind = "observer_"

    def __init__(self, ring: Ring, start: str = "tail", position: int = 0, number: int = 0):
        super().__init__("observer_new", ring._handle, _START[start], position, number)
        self.missed = 0

    @property
    def bookmark(self):
        """Position and number of what comes next, for `Ring.observer("at", *bookmark)`."""
        position, number = ctypes.c_uint64(), ctypes.c_uint64()
        _check(_LIBRARY.fanwire_ring_observer_bookmark(self._handle, ctypes.byref(position), ctypes.byref(number)))
        return position.value, number.value

    def next(self) -> Optional[Record]:
        """The next record, or nothing if there is none yet."""
        record, missed = _Record(), ctypes.c_uint64()
        while True:
            status = _LIBRARY.fanwire_ring_observer_next(self._handle, ctypes.byref(record), ctypes.byref(missed))
            if status == _EMPTY:
                return None
            if status != _MISSED:
                _check(status)
                payload = ctypes.string_at(record.payload, record.payload_bytes)
                return Record(record.position, record.tag, payload)
            self.missed += missed.value


class Publisher(_Handle):
    """Publishes into a running server: the setting `ingest.shared_memory` of fanwire.

    A publication is handed over when `publish` returns, and not yet checked: what the server finds wrong with it is in
    its metrics and log. May be used by several threads at a time.
    """

    _kind = "publisher_"

    def __init__(self, socket_path: Union[str, "os.PathLike[str]"]):
        super().__init__("publisher_connect", _ABI_VERSION, os.fsencode(socket_path))

    def publish(self, channel: str, kind: str, data: Union[str, Bytes], timeout: float = 0.0, *,
                user: Optional[str] = None, role: Optional[str] = None, permission: Optional[str] = None,
                except_session: Optional[str] = None, tenant: Optional[str] = None, all_tenants: bool = False) -> None:
        """Publishes a message whose data are JSON, as text: `json.dumps(value)`.

        Waits up to `timeout` seconds while the server is behind, and raises `Full` then. Raises `Disconnected` if the
        server is gone. At most one of `user`, `role`, `permission` and `except_session` says who receives it.
        """
        targets = [(name, value) for name, value in (("user", user), ("role", role), ("permission", permission),
                                                     ("except_session", except_session)) if value is not None]
        if len(targets) > 1:
            raise ValueError("user, role, permission and except_session are mutually exclusive")
        target_kind, target = targets[0] if targets else (None, "")
        self._publish(channel, kind, data, 0, timeout, _TARGET[target_kind], target, tenant, all_tenants)

    def publish_binary(self, channel: str, data: Bytes, timeout: float = 0.0, *,
                       tenant: Optional[str] = None, all_tenants: bool = False) -> None:
        """Publishes bytes, for clients that take binary messages."""
        self._publish(channel, "", data, 1, timeout, 0, "", tenant, all_tenants)

    def _publish(self, channel, kind, data, content, timeout, target_kind, target, tenant, all_tenants):
        if tenant is not None and all_tenants:
            raise ValueError("tenant and all_tenants are mutually exclusive")
        if isinstance(data, str):
            data = data.encode()
        elif not isinstance(data, bytes):
            data = bytes(data)
        channel, kind, target, of_tenant = channel.encode(), kind.encode(), target.encode(), (tenant or "").encode()
        publication = _Publication(
            (channel, len(channel)), (kind, len(kind)), data, len(data), content, target_kind, (target, len(target)),
            2 if all_tenants else 0 if tenant is None else 1, (of_tenant, len(of_tenant)))
        status = _LIBRARY.fanwire_ring_publisher_publish(self._handle, ctypes.byref(publication), int(timeout * 1e3))
        if status:
            raise _error(status)

    def flush(self, timeout: float = 30.0) -> None:
        """Waits until the server has read all that was published; raises `TimeoutError` or `Disconnected`."""
        status = _LIBRARY.fanwire_ring_publisher_flush(self._handle, int(timeout * 1e3))
        if status == _TIMEOUT:
            raise TimeoutError("the server has not read all that was published")
        _check(status)


class Listener(_Handle):
    """A Unix socket that gives a ring to everybody who may connect to it (mode 0600)."""

    _kind = "listener_"

    def __init__(self, socket_path: Union[str, "os.PathLike[str]"], observers_only: bool = False):
        super().__init__("listener_new", os.fsencode(socket_path), observers_only)

    def fileno(self) -> int:
        """The descriptor to wait at: readable when somebody wants the ring."""
        fd = ctypes.c_int()
        _check(_LIBRARY.fanwire_ring_listener_fd(self._handle, ctypes.byref(fd)))
        return fd.value

    def serve(self, ring: Ring) -> bool:
        """Gives the ring to one who has connected; false if nobody has."""
        status = _LIBRARY.fanwire_ring_listener_serve(self._handle, ring._handle)
        if status == _TIMEOUT:
            return False
        _check(status)
        return True
