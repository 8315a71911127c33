"""File trees as values: snapshot() reads a real directory, diff() compares two trees and says what differs.

A tree is a dict from path (bytes, relative; b"." is the root) to Node. A field that is None in either tree is not compared.
"""
import hashlib
import os
import stat
import subprocess
from dataclasses import dataclass, fields

TYPES = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFCHR: "c", stat.S_IFBLK: "b",
         stat.S_IFIFO: "p", stat.S_IFSOCK: "s"}


@dataclass
class Node:
    type: str                         # f d l c b p s
    mode: int = None                  # permission bits incl. setuid, setgid, sticky
    uid: int = None
    gid: int = None
    size: int = None                  # None for directories: file systems differ
    mtime_ns: int = None
    link: bytes = None                # of a symlink
    nlink: int = None                 # None for directories
    group: tuple = None               # all paths of this inode, sorted, when there are several
    xattrs: dict = None               # name (bytes) -> value
    rdev: tuple = None                # (major, minor) of devices
    sha256: str = None                # of a file's content


FIELDS = tuple(f.name for f in fields(Node))


def _hash(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _xattrs(path, skip):
    try:
        return {os.fsencode(n): os.getxattr(path, n, follow_symlinks=False)
                for n in os.listxattr(path, follow_symlinks=False) if not any(n.startswith(s) for s in skip)}
    except OSError:
        return {}


def snapshot(directory, leave_out=(), skip_xattrs=("user.oci.", "user.registryfs.", "user.umoci.", "security.selinux")):
    """The tree below `directory`. leave_out: names of fields that are not read (("sha256", "xattrs"))."""
    root, tree, inodes = os.fsencode(directory), {}, {}

    def add(rel, path):
        st = os.lstat(path)
        kind = TYPES[stat.S_IFMT(st.st_mode)]
        node = Node(kind, stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, mtime_ns=st.st_mtime_ns)
        if kind != "d":
            node.nlink = st.st_nlink
            if st.st_nlink > 1:
                inodes.setdefault((st.st_dev, st.st_ino), []).append(rel)
        if kind == "f":
            node.size = st.st_size
            if "sha256" not in leave_out:
                node.sha256 = _hash(path)
        elif kind == "l":
            node.link = os.readlink(path)
            node.size = st.st_size
        elif kind in "cb":
            node.rdev = (os.major(st.st_rdev), os.minor(st.st_rdev))
        if "xattrs" not in leave_out:
            node.xattrs = _xattrs(path, skip_xattrs)
        for name in leave_out:
            setattr(node, name, None)
        tree[rel] = node
        if kind == "d":
            for name in sorted(os.listdir(path)):
                add(name if rel == b"." else rel + b"/" + name, path + b"/" + name)

    add(b".", root)
    for paths in inodes.values():
        for p in paths:
            if "group" not in leave_out and len(paths) > 1:
                tree[p].group = tuple(sorted(paths))
    return tree


def diff(expected, found, leave_out=(), only=None):
    """Lines saying what differs; empty when the trees are equal. only: fields to compare.

    leave_out: fields, also "dir_mtime" for the times of directories alone (extracting tools disturb them).
    """
    names = [f for f in (only or FIELDS) if f not in leave_out]
    lines = []
    for path in sorted(expected.keys() | found.keys()):
        a, b = expected.get(path), found.get(path)
        shown = path.decode("utf-8", "backslashreplace")
        if a is None:
            lines.append(f"{shown!r}: too much ({b.type})")
        elif b is None:
            lines.append(f"{shown!r}: missing ({a.type})")
        else:
            for f in names:
                x, y = getattr(a, f), getattr(b, f)
                if f == "mtime_ns" and a.type == "d" and "dir_mtime" in leave_out:
                    continue
                if x is not None and y is not None and x != y:
                    x, y = (oct(x), oct(y)) if f == "mode" else (x, y)
                    lines.append(f"{shown!r}: {f} should be {x!r}, is {y!r}")
    return lines


def assert_same(expected, found, **kw):
    lines = diff(expected, found, **kw)
    assert not lines, f"{len(lines)} differences:\n" + "\n".join(lines[:40])


# ---- what other tools make of an image

def run(*command, env=None, check=True, input=None, timeout=600):
    """Runs a command; raises with its output when it fails. Returns the CompletedProcess."""
    p = subprocess.run([os.fspath(c) if not isinstance(c, (str, bytes)) else c for c in command], input=input,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, timeout=timeout)
    if check and p.returncode != 0:
        raise RuntimeError(f"{command} ended with {p.returncode}:\n{(p.stdout + p.stderr).decode(errors='replace')[-3000:]}")
    return p


def umoci_unpack(layout, tag, dest):
    """Unpacks an image of an OCI layout as root with umoci; returns the directory of the file tree."""
    run("umoci", "raw", "unpack", "--image", f"{layout}:{tag}", dest)
    return os.fspath(dest)


def skopeo_copy(source, dest, *options, env=None):
    """skopeo_copy("oci:/x:1.0", "docker://127.0.0.1:5000/app:1.0"); TLS is not verified."""
    return run("skopeo", "copy", "-q", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false",
               *options, source, dest, env=env)


def push_layout(layout, url, repo, tag="1.0", source_tag="1.0", *options):
    """Pushes a layout's image to a registry URL with skopeo."""
    host = url.split("://")[-1]
    return skopeo_copy(f"oci:{layout}:{source_tag}", f"docker://{host}/{repo}:{tag}", *options)


def crane(*args, env=None, **kw):
    """crane("digest", "127.0.0.1:5000/app:1.0") -> output as text."""
    from .servers import tool
    return run(tool("crane"), *args, env=env, **kw).stdout.decode().strip()
