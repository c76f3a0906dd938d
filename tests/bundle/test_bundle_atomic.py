"""Whatever interrupts a save, the old bundle or the new one is there in full."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import landform as lf
from landform.bundle import atomic, info, load, save, saving
from landform.errors import BundleError, InputError


@pytest.fixture(scope="module")
def imprints():
    return tuple(
        lf.imprint(lf.Pattern.parse(f"formula:{name}", resolution=4), "digits") for name in ("ackley", "sphere")
    )


@pytest.fixture
def old(imprints, tmp_path):
    return imprints[0].save(tmp_path / "a.landform")


def intact(folder, imprint):
    assert folder.exists()  # before load, which would put back what lies aside
    assert load(folder).certificate == imprint.certificate
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_without_force_nothing_is_replaced(imprints, old):
    with pytest.raises(BundleError, match=r"already holds a bundle.*--force \(force=True\)"):
        save(imprints[1], old)
    intact(old, imprints[0])
    imprints[1].save(old, force=True)
    intact(old, imprints[1])


def test_force_replaces_bundles_only(imprints, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    for force in (False, True):
        with pytest.raises(BundleError, match="is a file, not a bundle, and is never overwritten"):
            save(imprints[0], tmp_path / "file", force=force)
        with pytest.raises(BundleError, match=r"is no landform bundle \(it has no imprint.json\)"):
            save(imprints[0], tmp_path / "folder", force=force)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "thesis.tex").read_text() == "mine"


def test_force_keeps_what_is_not_landforms(imprints, old):
    (old / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"holds notes.txt, which landform did not write.*move it away first"):
        save(imprints[1], old, force=True)
    (old / "notes.txt").rename(old / "view.html")  # made from the bundle, and made again at will
    save(imprints[1], old, force=True)
    intact(old, imprints[1])


def test_links_parents_and_names(imprints, old, tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(old)
    save(imprints[1], link, force=True)
    assert link.is_symlink()
    assert load(old).certificate == imprints[1].certificate
    monkeypatch.chdir(tmp_path)
    assert save(imprints[0], "deep/er/b") == Path("deep/er/b")
    assert load("deep/er/b").z == 2
    long = "ü" * 100
    save(imprints[0], long)
    save(imprints[0], long, force=True)
    with pytest.raises(BundleError, match="could not write bundle"):
        save(imprints[0], "x" * 300)
    with pytest.raises(InputError, match="has a null character"):
        save(imprints[0], "x\0")
    with pytest.raises(BundleError, match="there is no bundle"):
        load("x" * 300)
    with pytest.raises(BundleError, match="could not write bundle"):
        save(imprints[0], "new/" + "x" * 300)
    assert not Path("new").exists()


def test_permissions_are_the_users_own(old):
    mask = os.umask(0)
    os.umask(mask)
    assert old.stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("limit", [100, 1_000, 2_500])
@pytest.mark.parametrize("exists", [True, False])
def test_a_full_disk(imprints, tmp_path, limit, exists):
    """The kernel refuses to write beyond a file size, as it does when no block is left."""
    folder = tmp_path / "a.landform"
    if exists:
        imprints[0].save(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(BundleError, match=r"could not write bundle .*(large|requested)"):
            save(imprints[1], folder, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    if exists:
        intact(folder, imprints[0])
    else:
        assert list(tmp_path.iterdir()) == []


FAULTS = [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError()]
PLACES = [
    (saving, "write_array"),
    (saving.layout, "write_json"),
    (atomic, "sync_tree"),
    (atomic.os, "fsync"),
    (np, "save"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize(("owner", "name"), PLACES, ids=lambda p: p if isinstance(p, str) else "")
def test_faults_at_every_step(imprints, old, monkeypatch, owner, name, fault):
    def fail(*args, **kwargs):
        raise fault

    monkeypatch.setattr(owner, name, fail)
    wanted = BundleError if isinstance(fault, OSError) else type(fault)
    with pytest.raises(wanted, match="the bundle that is there is as it was" if wanted is BundleError else None):
        save(imprints[1], old, force=True)
    monkeypatch.undo()
    intact(old, imprints[0])


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("call", [1, 2])
def test_faults_in_the_swap(imprints, old, monkeypatch, fault, call):
    calls, rename = [], Path.rename

    def fail(self, target):
        calls.append(self)
        if len(calls) == call:
            raise fault
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(BundleError if isinstance(fault, OSError) else type(fault)):
        save(imprints[1], old, force=True)
    monkeypatch.undo()
    intact(old, imprints[0])


def test_an_interrupt_after_the_swap(imprints, old, monkeypatch):
    swap = atomic.swap

    def late(*args):
        swap(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "swap", late)
    with pytest.raises(KeyboardInterrupt):
        save(imprints[1], old, force=True)
    monkeypatch.undo()
    assert load(old).certificate == imprints[1].certificate
    save(imprints[1], old, force=True)
    intact(old, imprints[1])


def test_a_read_only_folder(imprints, old, monkeypatch):
    mkdir = Path.mkdir

    def refuse(self, *args, **kwargs):
        if ".new-" in self.name:
            raise OSError(errno.EROFS, "Read-only file system")
        return mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        BundleError, match=r"could not write bundle .*a.landform: Read-only file system; the bundle that"
    ):
        save(imprints[1], old, force=True)
    intact(old, imprints[0])


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_permission(imprints, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(BundleError, match="Permission denied"):
            save(imprints[0], tmp_path / "a")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("reader", [load, info, lambda p: save(load(p), p, force=True)])
def test_a_bundle_left_aside_is_put_back(imprints, old, reader):
    old.rename(old.with_name(atomic._prefix(old, "old") + "0-1-2"))
    other = old.with_name("a.landform2")  # another target's leftover is none of this one
    imprints[1].save(other)
    other.rename(other.with_name(atomic._prefix(other, "old") + "0-1-2"))
    reader(old)
    assert load(old).certificate == imprints[0].certificate
    assert load(other).certificate == imprints[1].certificate


def test_one_that_cannot_be_put_back_is_named(old, monkeypatch):
    aside = old.with_name(atomic._prefix(old, "old") + "0-1-2")
    old.rename(aside)

    def refuse(self, target):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(BundleError, match=r"was left as .a.landform.*Read-only file system; rename it by hand"):
        load(old)


def test_leftovers_of_the_living_are_kept(imprints, old):
    alive = old.with_name(f"{atomic._prefix(old, 'new')}{atomic._host()}-{os.getpid()}-0")
    elsewhere = old.with_name(f"{atomic._prefix(old, 'new')}00000000-1-0")
    dead = old.with_name(f"{atomic._prefix(old, 'new')}{atomic._host()}-{2**22 + 1}-0")
    for folder in (alive, elsewhere, dead):
        folder.mkdir()
    save(imprints[1], old, force=True)
    assert [alive.exists(), elsewhere.exists(), dead.exists()] == [True, True, False]


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
import landform as lf
from landform.bundle import atomic, load, save, saving, info

root = Path(sys.argv[1])
new = lf.imprint(lf.Pattern.parse("formula:sphere", resolution=4), "digits")
old = lf.imprint(lf.Pattern.parse("formula:ackley", resolution=4), "digits")
names = ["formula:ackley", "formula:sphere"]
info(save(old, root / "warm"))  # what is imported lazily is there before the clocks run


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    return pid


def at(owner, name, count):
    inner, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            die()
        return inner(*args, **kwargs)

    setattr(owner, name, wrapped)


STAGES = [(saving, "write_tensors", 1), (saving, "write_array", 2), (saving.layout, "write_json", 2),
          (atomic, "sync_tree", 1), (Path, "rename", 1), (Path, "rename", 2), (atomic, "_sync", 5),
          (atomic, "_sync", 8), (atomic.shutil, "rmtree", 1), (atomic.shutil, "rmtree", 2)]
for number, (owner, name, count) in enumerate(STAGES):
    folder = root / f"stage{number}"
    save(old, folder)

    def work():
        at(owner, name, count)
        save(new, folder, force=True)

    _, status = os.waitpid(child(work), 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (name, count, status)
    gone = not folder.exists()
    found = load(folder).pattern.name
    assert found == (names[1] if name == "rmtree" or count == 8 else names[0]), (name, found)
    assert gone == (name == "rename" and count == 2)
    save(new, folder, force=True)
    print("stage", number, name, count, found)

folder = save(old, root / "timed")
random.seed(0)
for trial in range(12):
    def work():
        for imprint in [new, old] * 1000:
            save(imprint, folder, force=True)

    pid = child(work)
    time.sleep(random.uniform(0.0, 0.03))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert load(folder).pattern.name in names
save(new, folder, force=True)
assert sorted(p.name for p in root.iterdir()) == sorted(["timed", "warm", *(f"stage{i}" for i in range(len(STAGES)))])
print("done")
"""


def test_kill_9_at_every_stage_and_at_any_moment(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLER, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done"
    assert done.stdout.count("stage") == 10
