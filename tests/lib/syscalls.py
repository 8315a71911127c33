"""System calls that Python has no functions for: raw directory entries, and path walks that stay below a root."""
import ctypes
import errno
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_OPENAT2 = 437                    # the same on all architectures
RESOLVE_IN_ROOT = 0x10


def getdents(path):
    """[(name, st_ino, d_type)...] as the kernel gives them, with "." and ".."."""
    fd, out = os.open(path, os.O_RDONLY | os.O_DIRECTORY), []
    buf = ctypes.create_string_buffer(65536)
    try:
        while n := _libc.getdents64(fd, buf, len(buf)):
            if n < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
            data, at = buf.raw[:n], 0
            while at < n:
                ino, _, length, kind = struct.unpack_from("=QqHB", data, at)
                out.append((data[at + 19:at + length].split(b"\0", 1)[0], ino, kind))
                at += length
    finally:
        os.close(fd)
    return out


def _below(root, fd):
    """What an open file is called, relative to a directory; AssertionError when it is elsewhere."""
    path, root = os.readlink(b"/proc/self/fd/%d" % fd), os.path.realpath(os.fsencode(root))
    assert path == root or path.startswith(root + b"/"), f"{path!r} is outside of {root!r}"
    return path[len(root) + 1:]


def resolve_in_root(root, path):
    """Where `path` leads for a process whose root directory is `root`: (relative path, 0) or (None, errno)."""
    at = os.open(root, os.O_PATH)
    try:
        how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT)
        while True:
            fd = _libc.syscall(_SYS_OPENAT2, at, ctypes.c_char_p(path), how, len(how))
            if fd >= 0 or ctypes.get_errno() != errno.EAGAIN:     # somebody renamed something meanwhile
                break
        if fd < 0:
            assert ctypes.get_errno() != errno.ENOSYS
            return None, ctypes.get_errno()
        try:
            return _below(root, fd), 0
        finally:
            os.close(fd)
    finally:
        os.close(at)


def resolve(root, path):
    """Where root/path leads for everybody: as above; AssertionError when that is not below root."""
    try:
        fd = os.open(os.path.join(os.fsencode(root), path), os.O_PATH)
    except OSError as e:
        return None, e.errno
    try:
        return _below(root, fd), 0
    finally:
        os.close(fd)


def stays_below(path, text):
    """Whether a link at the real path `path` (relative, bytes) with this text can be followed without leaving the tree,
    whatever is in it and around it: `..` at the start only, and no more of them than there are directories above."""
    parts = [p for p in text.split(b"/") if p not in (b"", b".")]
    ups = next((i for i, p in enumerate(parts) if p != b".."), len(parts))
    return text[:1] != b"/" and ups <= path.count(b"/") and b".." not in parts[ups:]
