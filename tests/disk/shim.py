"""A layer between SQLite and the files of one database, in Python: it sees, fails and counts what changes them.

`sqlite3_vfs` is what SQLite asks for files (sqlite.org/vfs.html). The default one is copied, with functions of ours
for opening, deleting and randomness, and made the default; of each file that it opens, the functions that change it are
ours as well, and the one that reads it if that is wanted. They tell a `Watcher`, and then do what was asked with the
functions of the original.

The shared memory of a WAL is not seen: no image of a disk and no error of one needs it.
"""

from __future__ import annotations

import ctypes
import os
import random
import sqlite3
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p
from typing import Any, NamedTuple, Protocol

from tests.disk.records import Create, Operation, Read, Sync, Truncate, Unlink, Write

MAIN, JOURNAL, WAL = 0x100, 0x800, 0x80000  # SQLITE_OPEN_MAIN_DB, _MAIN_JOURNAL, _WAL
CREATES = 0x4  # SQLITE_OPEN_CREATE

_VFS = [
    "xOpen",
    "xDelete",
    "xAccess",
    "xFullPathname",
    "xDlOpen",
    "xDlError",
    "xDlSym",
    "xDlClose",
    "xRandomness",
    "xSleep",
    "xCurrentTime",
    "xGetLastError",
    "xCurrentTimeInt64",
    "xSetSystemCall",
    "xGetSystemCall",
    "xNextSystemCall",
]
_IO = [
    "xClose",
    "xRead",
    "xWrite",
    "xTruncate",
    "xSync",
    "xFileSize",
    "xLock",
    "xUnlock",
    "xCheckReservedLock",
    "xFileControl",
    "xSectorSize",
    "xDeviceCharacteristics",
    "xShmMap",
    "xShmLock",
    "xShmBarrier",
    "xShmUnmap",
    "xFetch",
    "xUnfetch",
]
_IO_OF_VERSION = {1: 12, 2: 16, 3: 18}  # how many of the functions a table of that version has

_INSTALLED: list[Shim] = []
"""SQLite calls them until the process ends, whether anybody else knows them or not."""

_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
_Delete = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_Randomness = CFUNCTYPE(c_int, c_void_p, c_int, c_void_p)
_Read = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64, use_errno=True)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64, use_errno=True)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int, use_errno=True)


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        *((name, c_void_p) for name in _VFS),
    ]


class _Io(ctypes.Structure):
    _fields_ = [("iVersion", c_int), *((name, c_void_p) for name in _IO)]


class Fault(NamedTuple):
    """What SQLite is told instead of the truth; of a write, so many bytes are written before."""

    code: int
    written: int = 0


class Watcher(Protocol):
    """Who is told; from whichever thread SQLite works in. What it raises is an error of the disk, and is kept."""

    def before(self, operation: Operation | Read) -> Fault | None:
        """An operation is about to be done: None lets it."""

    def after(self, operation: Operation) -> None:
        """It was done."""

    def refused(self, operation: Operation, errno: int) -> None:
        """It was not done, because the system itself did not let it."""

    def elsewhere(self) -> None:
        """SQLite has made a file without a name, in a directory for such."""


class Shim:
    """The layer for one database in this process, from `install` on and for good: meant for a child process.

    `seed` makes what SQLite draws at random (the salts of a WAL) the same each time. `reads`: the watcher is
    asked before these, too.
    """

    def __init__(self, database: str, watcher: Watcher, seed: int, *, reads: bool = False) -> None:
        self.error: BaseException | None = None  # what a watcher has raised
        self._database = database
        self._watcher = watcher
        self._reads = reads
        self._rng = random.Random(seed)
        self._names: dict[int, str] = {}  # of open files, by address
        self._tables: dict[int, tuple[_Io, _Io]] = {}  # the originals' and ours, by address
        self._functions: dict[int, Any] = {}  # of the originals, by address
        self._keep: list[object] = []

    def install(self) -> None:
        """Make it the default of this process. Raises `RuntimeError` if SQLite cannot be reached."""
        library = _library()
        library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        found = library.sqlite3_vfs_find(None)
        self._vfs = found
        copy = _Vfs.from_buffer_copy(found.contents)
        copy.zName, copy.pNext = b"watched", None
        self._open_original = _Open(copy.xOpen)
        self._delete_original = _Delete(copy.xDelete)
        copy.xOpen = self._address(_Open, self._open)
        copy.xDelete = self._address(_Delete, self._delete)
        copy.xRandomness = self._address(_Randomness, self._randomness)
        self._keep.append(copy)
        _INSTALLED.append(self)
        if library.sqlite3_vfs_register(ctypes.byref(copy), 1):
            raise RuntimeError("SQLite does not take another VFS")
        library.sqlite3_randomness(0, None)  # what was drawn before is forgotten

    def _address(self, kind: Any, function: Callable[..., int]) -> int | None:
        """A C function that never raises: an exception is kept, and an error of the disk for SQLite."""

        def guarded(*arguments: Any) -> int:
            try:
                return function(*arguments)
            except BaseException as error:
                self.error = self.error or error
                return sqlite3.SQLITE_IOERR

        made = kind(guarded)
        self._keep.append(made)
        return ctypes.cast(made, c_void_p).value

    # What SQLite calls

    def _open(self, _vfs: int, name: int | None, file: int, flags: int, out: Any) -> int:
        path = ctypes.string_at(name).decode() if name else ""
        suffix = path.removeprefix(self._database) if flags & (MAIN | JOURNAL | WAL) else None
        made = suffix is not None and bool(flags & CREATES) and not os.path.exists(path)  # noqa: PTH110 - quickly
        if made and suffix is not None:
            fault = self._watcher.before(Create(suffix))
            if fault is not None:
                c_void_p.from_address(file).value = None  # there is nothing that could be closed
                return fault.code
        if name is None:
            self._watcher.elsewhere()
        code = self._open_original(self._vfs_address(), name, file, flags, out)
        if code == sqlite3.SQLITE_OK and suffix is not None and path.startswith(self._database):
            if made:
                self._watcher.after(Create(suffix))
            self._names[file] = suffix
            methods = c_void_p.from_address(file)
            assert methods.value is not None
            methods.value = ctypes.addressof(self._table(methods.value)[1])
        return int(code)

    def _delete(self, _vfs: int, name: bytes, sync: int) -> int:
        path = name.decode()
        if not path.startswith(self._database) or not os.path.exists(path):  # noqa: PTH110
            return int(self._delete_original(self._vfs_address(), name, sync))
        operation = Unlink(path.removeprefix(self._database), bool(sync))
        return self._do(operation, lambda: self._delete_original(self._vfs_address(), name, sync))

    def _randomness(self, _vfs: int, size: int, out: int) -> int:
        ctypes.memmove(out, self._rng.randbytes(size), size)
        return size

    def _read(self, file: int, data: int, size: int, offset: int) -> int:
        original = self._original(file, "xRead", _Read)
        fault = self._watcher.before(Read(self._names[file], offset, size))
        return int(original(file, data, size, offset)) if fault is None else fault.code

    def _write(self, file: int, data: int, size: int, offset: int) -> int:
        original = self._original(file, "xWrite", _Write)
        operation = Write(self._names[file], offset, ctypes.string_at(data, size))
        fault = self._watcher.before(operation)
        if fault is not None and not fault.written:
            return fault.code
        done = size if fault is None else min(size, fault.written)
        code = int(original(file, data, done, offset))
        if code == sqlite3.SQLITE_OK:
            self._watcher.after(Write(operation.file, offset, operation.data[:done]))
        else:
            self._watcher.refused(operation, ctypes.get_errno())
        return code if fault is None else fault.code

    def _truncate(self, file: int, size: int) -> int:
        original = self._original(file, "xTruncate", _Truncate)
        return self._do(Truncate(self._names[file], size), lambda: original(file, size))

    def _sync(self, file: int, flags: int) -> int:
        original = self._original(file, "xSync", _Sync)
        return self._do(Sync(self._names[file]), lambda: original(file, flags))

    # Inside

    def _do(self, operation: Operation, original: Callable[[], int]) -> int:
        fault = self._watcher.before(operation)
        if fault is not None:
            return fault.code
        code = int(original())
        if code == sqlite3.SQLITE_OK:
            self._watcher.after(operation)
        else:
            self._watcher.refused(operation, ctypes.get_errno())
        return code

    def _vfs_address(self) -> int | None:
        return ctypes.cast(self._vfs, c_void_p).value

    def _table(self, address: int) -> tuple[_Io, _Io]:
        if address not in self._tables:
            original, ours = _Io(), _Io()
            version = c_int.from_address(address).value
            size = _Io.xClose.offset + _IO_OF_VERSION[version] * ctypes.sizeof(c_void_p)
            for table in (original, ours):
                ctypes.memmove(ctypes.addressof(table), address, size)
            if self._reads:
                ours.xRead = self._address(_Read, self._read)
            ours.xWrite = self._address(_Write, self._write)
            ours.xTruncate = self._address(_Truncate, self._truncate)
            ours.xSync = self._address(_Sync, self._sync)
            self._tables[address] = self._tables[ctypes.addressof(ours)] = (original, ours)
        return self._tables[address]

    def _original(self, file: int, name: str, kind: Any) -> Any:
        address = c_void_p.from_address(file).value
        assert address is not None
        function = getattr(self._tables[address][0], name)
        if function not in self._functions:
            self._functions[function] = kind(function)
        return self._functions[function]


def _library() -> ctypes.CDLL:
    """The SQLite that the module `sqlite3` uses, whether that is linked to it or built into it."""
    import _sqlite3

    try:
        library = ctypes.CDLL(_sqlite3.__file__)
        assert library.sqlite3_vfs_find
        assert library.sqlite3_vfs_register
    except (AttributeError, OSError) as error:
        raise RuntimeError(
            "the SQLite of this Python does not show its functions (its sqlite3 module has no file, or hides them); "
            "run the tests of tests/disk with a Python whose _sqlite3 is a shared library, such as Debian's python3"
        ) from error
    return library
