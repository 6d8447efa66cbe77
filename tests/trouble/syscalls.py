"""A process's system calls, recorded with strace, and the disks that a crash among them leaves.

The model of a disk, which is stricter than ext4's:

- A write to a file, or a change of its size, is certain from the end of an fsync or fdatasync of
  that file that began after it. Until then each may have happened or not, whatever became of the
  others.
- A name (created, linked, renamed, removed) is certain from the end of an fsync of its directory.
  An fsync of the file alone does not make its name certain (on ext4 it would). Until then each
  change may have happened or not; a rename happens as a whole.
- Of a write that touches several sectors of 512 bytes only the first ones may have happened.
- `-shm` is shared memory, made anew after a crash: it is in no image.

A call happens when it returns. One process is replayed, with all its threads.
"""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

SECTOR = 512

# What changes a file or makes it certain; those that the replay does not know are refused there.
_TRACED = (
    "openat,close,mkdir,unlink,unlinkat,rename,renameat,renameat2,link,linkat,"
    "write,writev,pwrite64,pwritev,pwritev2,ftruncate,fallocate,copy_file_range,"
    "fdatasync,fsync,sync_file_range,dup,dup2,dup3"
)
_SYNCS = ("fdatasync", "fsync")
_UNLINKS = ("unlink", "unlinkat")
_RENAMES = ("rename", "renameat", "renameat2")
_LINKS = ("link", "linkat")

_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+|\?)")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
_ENDED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)\) += (-?\d+|\?)")
_STRING = re.compile(r'"[^"]*"')
_OTHER = re.compile(r"\d+ +(\+\+\+|---) ")

has_strace = (
    shutil.which("strace") is not None
    and subprocess.run(["strace", "-o", "/dev/null", "true"], check=False).returncode == 0
)


# Recording


@dataclass(frozen=True)
class Call:
    """A moment of a system call: its beginning, or its end with a result."""

    thread: str
    name: str
    arguments: tuple[str, ...]
    result: int | None = None

    @property
    def fd(self) -> int:
        """Give the descriptor it is about."""
        return int(self.arguments[0])

    @property
    def strings(self) -> list[bytes]:
        """Give the arguments that are strings."""
        return [_decoded(one) for one in _STRING.findall(", ".join(self.arguments))]

    @property
    def paths(self) -> list[str]:
        """Give the arguments that are paths."""
        return [string.decode() for string in self.strings]


def _decoded(argument: str) -> bytes:
    return bytes.fromhex(argument.strip('"').replace("\\x", ""))


def record(command: Sequence[str], trace: Path) -> None:
    """Run a command to its end, and write its calls to a file."""
    strace = ["strace", "-f", "-xx", "-s", "2000000", "-e", f"trace={_TRACED}", "-o", str(trace)]
    done = subprocess.run([*strace, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done


def calls(trace: Path) -> Iterator[Call]:
    """Give the beginnings and the ends of a trace's calls, in their order."""
    begun: dict[str, Call] = {}
    with trace.open() as lines:
        for line in lines:
            if match := _WHOLE.match(line):
                thread, name, arguments, result = match.groups()
                call = Call(thread, name, tuple(arguments.split(", ")))
                yield call
                yield replace(call, result=_number(result))
            elif match := _BEGUN.match(line):
                thread, name, arguments = match.groups()
                begun[thread] = Call(thread, name, tuple(arguments.rstrip(", ").split(", ")))
                yield begun[thread]
            elif match := _ENDED.match(line):
                thread, more, result = match.groups()
                call = begun.pop(thread)
                arguments = (*call.arguments, *filter(None, more.strip(", ").split(", ")))
                yield replace(call, arguments=arguments, result=_number(result))
            else:
                assert _OTHER.match(line), f"this line of strace's is not understood: {line}"


def _number(result: str) -> int:
    return -1 if result == "?" else int(result)


# The disk


@dataclass(frozen=True, eq=False)
class Write:
    """Bytes at an offset; where nothing was before them are zeros."""

    offset: int
    data: bytes

    def apply(self, content: bytearray) -> None:
        """Write them."""
        content.extend(bytes(max(0, self.offset - len(content))))
        content[self.offset : self.offset + len(self.data)] = self.data

    def torn(self, chance: random.Random) -> Write | None:
        """Give its first sectors; None if it is within one."""
        first = self.offset // SECTOR + 1
        last = (self.offset + len(self.data) - 1) // SECTOR
        if first > last:
            return None
        return Write(self.offset, self.data[: chance.randint(first, last) * SECTOR - self.offset])


@dataclass(frozen=True, eq=False)
class Size:
    """A file's new size."""

    size: int

    def apply(self, content: bytearray) -> None:
        """Cut it there, or fill it up with zeros."""
        del content[self.size :]
        content.extend(bytes(self.size - len(content)))


class File:
    """A file or a directory: what is certain of its content, and what may have happened to it."""

    def __init__(self, content: bytes | None = b"") -> None:
        self.content = content or b""
        self.is_directory = content is None
        self.changes: list[Write | Size] = []

    def settle(self, changes: Sequence[Write | Size]) -> None:
        """Make changes certain."""
        self.content = self.after({change: change for change in changes})
        settled = set(changes)
        self.changes = [change for change in self.changes if change not in settled]

    def after(self, happened: Mapping[Change, Change]) -> bytes:
        """Give the content if only this happened."""
        content = bytearray(self.content)
        for change in self.changes:
            if isinstance(done := happened.get(change), Write | Size):
                done.apply(content)
        return bytes(content)


@dataclass(frozen=True, eq=False)
class Names:
    """Names in one directory that change together; None where one is removed."""

    files: Mapping[str, File | None]

    def apply(self, names: dict[str, File]) -> None:
        """Let them change."""
        for name, file in self.files.items():
            names.pop(name, None)
            if file is not None:
                names[name] = file

    @property
    def directory(self) -> str:
        """Give the directory's path."""
        return str(Path(next(iter(self.files))).parent)


Change = Write | Size | Names


@dataclass(frozen=True)
class Image:
    """The files that a crash left: their contents by their paths."""

    files: Mapping[str, bytes]

    @cached_property
    def digest(self) -> bytes:
        """Tell images apart."""
        digest = hashlib.blake2b(digest_size=16)
        for name, content in sorted(self.files.items()):
            digest.update(b"%d %d %s" % (len(name), len(content), name.encode()))
            digest.update(content)
        return digest.digest()

    def write(self, directory: Path) -> None:
        """Lay the files out in a directory."""
        for name, content in self.files.items():
            path = directory / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(content)


Snapshot = Mapping[str, "bytes | None"]


def snapshot(root: Path) -> Snapshot:
    """Give what is in a directory: the content of each file by its path, None for a directory."""
    return {str(path): None if path.is_dir() else path.read_bytes() for path in root.rglob("*")}


class Disk:
    """What is in a directory: certain as it was before; then as a process's calls change it."""

    def __init__(self, root: Path, before: Snapshot) -> None:
        self._root = str(root)
        self._certain = {
            path: File(content) for path, content in before.items() if self._is_on_it(path)
        }
        self._names = dict(self._certain)
        self._name_changes: list[Names] = []
        self._changes: dict[Change, None] = {}  # the uncertain ones, in their order
        self._files: dict[int, File] = {}
        self._directories: dict[int, str] = {}
        self._covered: dict[str, tuple[Change, ...]] = {}

    def see(self, call: Call) -> bool:
        """Let a moment of a call happen; say whether a crash may leave something else now."""
        if call.result is None:
            if call.name in _SYNCS:
                self._covered[call.thread] = self._covered_by(call.fd)
            return False
        return call.result >= 0 and self._end(call, call.result)

    def image(self, happened: Mapping[Change, Change]) -> Image:
        """Give what a crash leaves if of the uncertain changes only these happened, and how."""
        names = dict(self._certain)
        for change in self._name_changes:
            if change in happened:
                change.apply(names)
        return Image(
            {
                name.removeprefix(self._root + "/"): file.after(happened)
                for name, file in names.items()
                if not file.is_directory and self._is_reachable(name, names)
            }
        )

    # What a crash may do with what is uncertain

    def all_kept(self) -> Image:
        """Give what the death of the process alone leaves."""
        return self.image({change: change for change in self._changes})

    def all_dropped(self) -> Image:
        """Give only what is certain."""
        return self.image({})

    def some_kept(self, chance: random.Random) -> Image:
        """Keep any of it."""
        share = chance.random()
        kept = [change for change in self._changes if chance.random() < share]
        return self.image({change: change for change in kept})

    def last_torn(self, chance: random.Random) -> Image | None:
        """Keep all, and the first sectors of the last write; None if that is within one."""
        last = next(reversed(self._changes), None)
        torn = last.torn(chance) if isinstance(last, Write) else None
        if last is None or torn is None:
            return None
        return self.image({change: change for change in self._changes} | {last: torn})

    # Calls

    def _covered_by(self, fd: int) -> tuple[Change, ...]:
        if fd in self._directories:
            directory = self._directories[fd]
            return tuple(one for one in self._name_changes if one.directory == directory)
        return tuple(self._files[fd].changes) if fd in self._files else ()

    def _end(self, call: Call, result: int) -> bool:
        if call.name in ("openat", "mkdir"):
            return self._open(call, result)
        if call.name in (*_UNLINKS, *_RENAMES, *_LINKS):
            return self._rename(call)
        if call.name in _SYNCS:
            return self._settle(call.fd, self._covered.pop(call.thread))
        file = self._files.get(call.fd)
        if call.name == "close":
            self._files.pop(call.fd, None)
            self._directories.pop(call.fd, None)
        elif file is not None:
            self._change(file, call, result)
        return file is not None and call.name != "close"

    def _open(self, call: Call, fd: int) -> bool:
        (path,) = call.paths
        if path == self._root:
            self._directories[fd] = path
        if not self._is_on_it(path):
            return False
        is_new = path not in self._names
        if call.name == "mkdir":
            self._change_names({path: File(None)})
            return True
        assert "O_TRUNC" not in call.arguments[2], call
        if is_new and "O_CREAT" in call.arguments[2]:
            self._change_names({path: File()})
        if path in self._names and not self._names[path].is_directory:
            self._files[fd] = self._names[path]
        else:
            self._directories[fd] = path
        return is_new

    def _rename(self, call: Call) -> bool:
        paths = [path for path in call.paths if self._is_on_it(path)]
        if not paths:
            return False
        file = self._names[paths[0]]
        if call.name in _UNLINKS:
            self._change_names({paths[0]: None})
        elif call.name in _RENAMES:
            self._change_names({paths[0]: None, paths[1]: file})
        else:
            self._change_names({paths[1]: file})
        return True

    def _change_names(self, files: Mapping[str, File | None]) -> None:
        change = Names(files)
        change.apply(self._names)
        self._name_changes.append(change)
        self._changes[change] = None

    def _change(self, file: File, call: Call, result: int) -> None:
        assert call.name in ("pwrite64", "writev", "ftruncate"), f"it is not replayed: {call}"
        change: Write | Size
        if call.name == "pwrite64":
            change = Write(int(call.arguments[-1]), call.strings[0][:result])
        elif call.name == "writev":  # only to files that are appended to
            end = len(file.after({one: one for one in file.changes}))
            change = Write(end, b"".join(call.strings)[:result])
        else:
            change = Size(int(call.arguments[1]))
        file.changes.append(change)
        self._changes[change] = None

    def _settle(self, fd: int, covered: Sequence[Change]) -> bool:
        settled = [change for change in covered if change in self._changes]
        for change in settled:
            del self._changes[change]
            if isinstance(change, Names):
                change.apply(self._certain)
                self._name_changes.remove(change)
        if fd in self._files:
            self._files[fd].settle([one for one in settled if not isinstance(one, Names)])
        return bool(settled)

    # Paths

    def _is_on_it(self, path: str) -> bool:
        return path.startswith(self._root + "/") and not path.endswith("-shm")

    def _is_reachable(self, name: str, names: Mapping[str, File]) -> bool:
        parents = [str(parent) for parent in Path(name).parents]
        return all(parent in names for parent in parents if parent.startswith(self._root + "/"))
