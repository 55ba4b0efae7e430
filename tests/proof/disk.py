"""A disk that can lose power, fill up and fail, under the real SQLite library (a VFS for APSW).

1. What was written but not synced is pending. A power cut drops it, keeps any part of it, or tears it at sectors of 512
   bytes, each file by itself and in no order: what a disk with a cache may do, and a file system beneath SQLite.
2. Names last once their folder was synced, which SQLite's own VFS does with the first sync of a journal or WAL. Before
   that a new file may be missing afterwards, and one that was deleted may be back.
3. `before` is told of each operation and may raise what a failing disk has to say: nothing happened then.
4. There is no shared memory here: SQLite's WAL mode needs `locking_mode = EXCLUSIVE`, one connection a database.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import apsw

_SECTOR = 512
_POWERSAFE_OVERWRITE = 0x1000
"""As SQLite's own VFS on POSIX: bytes beside those that are written are safe (SQLITE_IOCAP_POWERSAFE_OVERWRITE)."""

_NAMED_BY_SYNC = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL

Write = tuple[int, bytes | None]
"""Offset and data; without data: the new size."""


@dataclass(slots=True)
class Inode:
    """One file: what is on the platter (None: not even its name), what was asked for since, what programs see."""

    durable: bytearray | None = None
    pending: list[Write] = field(default_factory=list)
    seen: bytearray | None = field(default_factory=bytearray)

    def write(self, offset: int, data: bytes) -> None:
        """Change what programs see."""
        assert self.seen is not None
        _apply(self.seen, offset, data)
        self.pending.append((offset, data))

    def truncate(self, size: int) -> None:
        """Change the size that programs see."""
        assert self.seen is not None
        _apply(self.seen, size, None)
        self.pending.append((size, None))

    def sync(self) -> None:
        """Bring it to the platter."""
        if self.durable is None:
            self.durable = bytearray()
        for offset, data in self.pending:
            _apply(self.durable, offset, data)
        self.pending.clear()

    def renew(self) -> None:
        """Write it over itself, as programs see it, and sync it."""
        assert self.seen is not None
        self.pending = [(0, bytes(self.seen)), (len(self.seen), None)]
        self.sync()

    def copy(self) -> Inode:
        """The same, once more."""
        seen = None if self.seen is None else bytearray(self.seen)
        return Inode(None if self.durable is None else bytearray(self.durable), list(self.pending), seen)

    def after_cut(self, chance: random.Random, keep: float, *, sectors: bool) -> Inode | None:
        """What is there when the power is back."""
        if self.durable is None and chance.random() >= keep:
            return None
        if self.seen is None and chance.random() < keep:
            return None
        left = bytearray(self.durable or b"")
        for offset, data in self.pending:
            if data is None or not sectors:
                if chance.random() < keep:
                    _apply(left, offset, data)
                continue
            for start in range(0, len(data), _SECTOR):
                if chance.random() < keep:
                    _apply(left, offset + start, data[start : start + _SECTOR])
        return Inode(left, [], bytearray(left))


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        offset, data = max(offset, len(content)), b""
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class Disk:
    """Files by name. `before` is called with the operation and the file's name before anything happens."""

    def __init__(self, files: dict[str, Inode] | None = None) -> None:
        self.files = files or {}
        self.before: Callable[[str, str], None] = lambda _operation, _name: None

    def sync_folder(self) -> None:
        """Make names last."""
        for name, inode in list(self.files.items()):
            if inode.seen is None:
                del self.files[name]
            elif inode.durable is None:
                inode.durable = bytearray()

    def image(self) -> Disk:
        """The disk at this moment, to cut its power later."""
        return Disk({name: inode.copy() for name, inode in self.files.items()})

    def cut(self, chance: random.Random) -> Disk:
        """What the next start finds. A third of the cuts lose all that was not synced."""
        keep, sectors = chance.choice([(0.0, False), (chance.random(), False), (chance.random(), True)])
        found = {name: inode.after_cut(chance, keep, sectors=sectors) for name, inode in self.files.items()}
        return Disk({name: inode for name, inode in found.items() if inode is not None})


class DiskVfs(apsw.VFS):
    """A `Disk` as SQLite sees it, registered under `name` until `unregister`."""

    def __init__(self, name: str, disk: Disk) -> None:
        self.disk = disk
        super().__init__(name, "")

    def xFullPathname(self, name: str) -> str:  # noqa: N802  SQLite's name, as all below
        """Names are what they are."""
        return name

    def xAccess(self, pathname: str, _flags: int) -> bool:  # noqa: N802
        """Whether it is there; everything there may be read and written."""
        inode = self.disk.files.get(pathname)
        return inode is not None and inode.seen is not None

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """Delete a file; it may be back after a power cut unless the folder was synced."""
        self.disk.before("delete", filename)
        inode = self.disk.files[filename]
        inode.seen = None
        if syncdir or inode.durable is None:
            del self.disk.files[filename]

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> Any:  # noqa: N802
        """Open or create; returns a `DiskFile`: APSW asks for a file's methods, not for its class."""
        flags[1] = flags[0]
        if name is None:
            return DiskFile(self.disk, "", Inode(), is_new=False)
        path = name if isinstance(name, str) else name.filename()
        inode = self.disk.files.get(path)
        if inode is None or inode.seen is None:
            if not flags[0] & apsw.SQLITE_OPEN_CREATE:
                raise apsw.CantOpenError(path)
            self.disk.before("create", path)
            former = None if inode is None else inode.durable
            inode = self.disk.files[path] = Inode(former, [] if former is None else [(0, None)])
        is_new = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & _NAMED_BY_SYNC)
        return DiskFile(self.disk, path, inode, is_new=is_new)


class DiskFile:
    """An open file."""

    def __init__(self, disk: Disk, name: str, inode: Inode, *, is_new: bool) -> None:
        self._disk = disk
        self._name = name
        self._inode = inode
        self._is_new = is_new

    @property
    def _seen(self) -> bytearray:
        return self._inode.seen if self._inode.seen is not None else bytearray()

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        self._disk.before("read", self._name)
        return bytes(self._seen[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.before("write", self._name)
        self._inode.write(offset, bytes(data))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._disk.before("truncate", self._name)
        self._inode.truncate(size)

    def xSync(self, _flags: int) -> None:  # noqa: N802
        self._disk.before("sync", self._name)
        self._inode.sync()
        if self._is_new:
            self._disk.sync_folder()
            self._is_new = False

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._seen)

    def xLock(self, _level: int) -> None:  # noqa: N802
        """One connection a database: nobody to lock out."""

    def xUnlock(self, _level: int) -> None:  # noqa: N802
        """As above."""

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, _operation: int, _pointer: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return 4096

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return _POWERSAFE_OVERWRITE

    def xClose(self) -> None:  # noqa: N802
        """Nothing is left to do: closing syncs nothing."""
