"""Replace a folder so that, whenever the process dies, the old one or the new one is there in full.

The new folder is filled beside the target and flushed to disk. Then the old one is renamed aside, the new one renamed
in, and the old one removed. Only between the two renames does the target not exist; `recover` puts the old one back.
"""

import hashlib
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from landform.bundle.layout import CONTENT, DOCUMENT
from landform.errors import BundleError, InputError

_OWN_STEMS = ("surface", "view")  # pictures and measurements, made from the bundle and made again at will
_CLUTTER = (".DS_Store", "Thumbs.db", "desktop.ini")


def locate(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of the folder itself, behind a symbolic link if there is one.

    Raises:
        InputError: If the path has a null character, which no file system takes.
    """
    if "\0" in os.fsdecode(path):
        raise InputError(f"path {os.fsdecode(path)!r} has a null character; choose another name")
    target = Path(os.path.abspath(path))  # noqa: PTH100  resolve() would follow links on the way, too
    return target.resolve() if os.path.islink(target) else target  # noqa: PTH114  no error for a name too long


def check_target(target: Path, *, force: bool) -> None:
    """Refuse to overwrite without leave, and to overwrite what is no bundle or holds more than one.

    Raises:
        BundleError: Naming what is there and what to do.
    """
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise BundleError(f"{target} is a file, not a bundle, and is never overwritten; choose another path")
    if not (target / DOCUMENT).is_file():
        raise BundleError(
            f"{target} exists and is no landform bundle (it has no {DOCUMENT}), so it is never overwritten; choose"
            " another path"
        )
    if not force:
        raise BundleError(
            f"{target} already holds a bundle; choose another path, or replace it with --force (force=True)"
        )
    known = {*CONTENT, *_CLUTTER}
    others = sorted(p.name for p in target.iterdir() if p.name not in known and p.name.split(".")[0] not in _OWN_STEMS)
    if others:
        raise BundleError(
            f"{target} holds {', '.join(others[:5])}, which landform did not write and replacing the bundle would"
            " delete; move it away first"
        )


def publish(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a new folder beside the target, and put it in the target's place.

    Args:
        target: Where the folder goes; what is there is replaced.
        fill: Writes the files into an empty folder.

    Raises:
        Exception: Whatever ``fill`` or the file system raises; then the target is as it was and nothing is left.
    """
    created: list[Path] = []
    token = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    new = target.with_name(f"{_prefix(target, 'new')}{token}")
    aside = target.with_name(f"{_prefix(target, 'old')}{token}")
    try:
        _make_parents(target.parent, created)
        new.mkdir()
        fill(new)
        sync_tree(new)
        swap(new, target, aside)
        created = []
    finally:
        shutil.rmtree(new, ignore_errors=True)
        for folder in created:
            folder.rmdir()
    _sync(target.parent)
    _remove_leftovers(target)


def swap(new: Path, target: Path, aside: Path) -> None:
    """Rename the new folder to the target, the old one aside; on failure put the old one back.

    Raises:
        OSError: If a rename fails; the target is then what it was.
    """
    try:
        if target.exists():
            target.rename(aside)
        new.rename(target)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise


def recover(target: Path) -> None:
    """Put back a folder that a save killed between its two renames left aside.

    Raises:
        BundleError: If there is one and it cannot be renamed.
    """
    if os.path.lexists(target):
        return
    found = [p for p in _leftovers(target, "old") if (p / DOCUMENT).is_file()]
    if not found:
        return
    last = max(found, key=lambda p: p.stat().st_mtime_ns)
    try:
        last.rename(target)
    except OSError as error:
        if target.exists():  # the saver was alive after all, or another reader was faster
            return
        raise BundleError(
            f"{target} was left as {last.name} by a save that was killed, and cannot be renamed back: {error.strerror};"
            f" rename it by hand"
        ) from error


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below a folder to disk."""
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            _sync(Path(root, name))
        _sync(Path(root))


def _sync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return  # elsewhere folders cannot be opened
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_parents(folder: Path, created: list[Path]) -> None:
    """Make a folder and those above it; note the ones made, deepest first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for parent in reversed(missing):
        parent.mkdir()
        created.insert(0, parent)


def _prefix(target: Path, kind: str) -> str:
    """Return how names of temporary folders begin: hidden, readable, and never another target's."""
    mark = hashlib.sha256(target.name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f".{target.name[:40]}.{mark}.{kind}-"


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _leftovers(target: Path, kind: str) -> Iterator[Path]:
    prefix = _prefix(target, kind)
    if target.parent.is_dir():
        yield from (p for p in target.parent.iterdir() if p.name.startswith(prefix) and p.is_dir())


def _remove_leftovers(target: Path) -> None:
    """Remove what is left of this target: old folders, and new ones whose process is gone."""
    for path in [*_leftovers(target, "old"), *_leftovers(target, "new")]:
        if ".new-" in path.name and not _dead(path.name.rpartition(".new-")[2]):
            continue
        shutil.rmtree(path, ignore_errors=True)


def _dead(token: str) -> bool:
    """Say whether the process of a token is known to be gone: of this machine, and no such process."""
    host, _, rest = token.partition("-")
    if os.name != "posix" or host != _host():
        return False
    try:
        os.kill(int(rest.partition("-")[0]), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, PermissionError):
        return False
    return False
