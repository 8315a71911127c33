"""A tar writer that writes what it is told, sane or not: the layers of the tests.

Entry is one member; encode(entry) gives its bytes with whatever extended headers it needs or is asked to have. The
functions file(), directory(), symlink(), hardlink(), char(), block(), fifo(), whiteout(), opaque(), sparse() and
global_header() make entries; raw(bytes) puts anything between them. Names are bytes, or str encoded as UTF-8 with
surrogateescape.
"""
import base64
import gzip
import io
import math
import subprocess
import zlib
from dataclasses import dataclass, field
from fractions import Fraction

BLOCK = 512
MTIME = 1_700_000_000      # of entries that do not say


def to_bytes(s):
    return s if isinstance(s, bytes) else s.encode("utf-8", "surrogateescape")


@dataclass
class Entry:
    name: bytes
    type: bytes = b"0"
    data: object = b""                # bytes, or an iterable of bytes together with `size`
    link: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: object = MTIME             # int, or a decimal string for a PAX record ("-1.5")
    size: int = None                  # what the header says, if not len(data)
    xattrs: dict = field(default_factory=dict)       # name -> value (bytes), as SCHILY.xattr
    libarchive_xattrs: dict = field(default_factory=dict)
    pax: list = field(default_factory=list)          # further records: (key, value)
    major: int = 0
    minor: int = 0
    uname: bytes = b""
    gname: bytes = b""
    format: str = "pax"               # pax, gnu, ustar or v7: how long names and large numbers are written
    prefix_split: bool = True         # ustar's prefix field may be used
    base256: bool = False             # all numbers in base 256
    gnu_sparse: tuple = None          # old GNU sparse: ([(offset, length)...], real size)
    content: bytes = None             # what a reader gets to see, if that is not `data` (sparse)

    def __post_init__(self):
        self.name, self.link = to_bytes(self.name), to_bytes(self.link)
        self.xattrs = {to_bytes(k): v for k, v in self.xattrs.items()}
        self.libarchive_xattrs = {to_bytes(k): v for k, v in self.libarchive_xattrs.items()}
        self.pax = [(to_bytes(k), to_bytes(v)) for k, v in self.pax]

    @property
    def mtime_ns(self):
        return math.floor(Fraction(self.mtime) * 10**9)


def _octal(value, width):
    return b"%0*o\0" % (width - 1, value)


def _base256(value, width):
    raw = bytearray((value % (1 << 8 * width)).to_bytes(width, "big"))
    raw[0] |= 0x80
    return bytes(raw)


def _number(value, width, base256):
    if not base256 and 0 <= value < 8 ** (width - 1):
        return _octal(value, width)
    return _base256(value, width)


def pax_records(records):
    """PAX "length key=value\\n" records, byte for byte."""
    out = b""
    for key, value in records:
        body = b" " + key + b"=" + value + b"\n"
        n = len(body) + 1
        while len(str(n)) + len(body) != n:
            n = len(str(n)) + len(body)
        out += str(n).encode() + body
    return out


def _pad(data):
    return data + b"\0" * (-len(data) % BLOCK)


def _header(name, type, size, mode=0o644, uid=0, gid=0, mtime=0, link=b"", major=0, minor=0, uname=b"", gname=b"",
            magic=b"ustar\x0000", prefix=b"", base256=False, tail=b""):
    h = bytearray(BLOCK)
    h[0:100] = name[:100].ljust(100, b"\0")
    h[100:108] = _number(mode, 8, base256)
    h[108:116] = _number(uid, 8, base256)
    h[116:124] = _number(gid, 8, base256)
    h[124:136] = _number(size, 12, base256)
    h[136:148] = _number(mtime, 12, base256)
    h[156:157] = type
    h[157:257] = link[:100].ljust(100, b"\0")
    if magic:
        h[257:265] = magic
        h[265:297] = uname[:31].ljust(32, b"\0")
        h[297:329] = gname[:31].ljust(32, b"\0")
        h[329:337] = _number(major, 8, base256)
        h[337:345] = _number(minor, 8, base256)
        h[345:500] = prefix[:155].ljust(155, b"\0")
    h[345:345 + len(tail)] = tail
    h[148:156] = b" " * 8
    h[148:156] = b"%06o\0 " % sum(h)
    return bytes(h)


def _split(name):
    """(prefix, name) for the ustar header, or None."""
    if len(name) <= 100:
        return b"", name
    for i in range(min(155, len(name) - 1), 0, -1):
        if name[i:i + 1] == b"/" and len(name) - i - 1 <= 100 and i < len(name) - 1:
            return name[:i], name[i + 1:]
    return None


def _gnu_sparse_parts(e):
    segments, real = e.gnu_sparse
    pairs = [_octal(o, 12) + _octal(n, 12) for o, n in segments]
    tail = b"\0" * 41 + b"".join(pairs[:4]).ljust(96, b"\0") + (b"\1" if len(pairs) > 4 else b"\0") + _octal(real, 12)
    extra, rest = b"", pairs[4:]
    while rest:
        extra += (b"".join(rest[:21]).ljust(504, b"\0") + (b"\1" if len(rest) > 21 else b"\0")).ljust(BLOCK, b"\0")
        rest = rest[21:]
    return tail, extra


def head(e):
    """The header blocks of an entry, without its data."""
    records, before = list(e.pax), b""
    size = e.size if e.size is not None else len(e.data)
    numbers = {"mode": e.mode, "uid": e.uid, "gid": e.gid, "size": size, "mtime": math.floor(Fraction(e.mtime))}
    name, link, prefix = e.name, e.link, b""
    if e.format == "pax":
        given = {k for k, _ in records}
        if isinstance(e.mtime, str):
            records.append((b"mtime", e.mtime.encode()))
        for key, width in (("uid", 8), ("gid", 8), ("size", 12), ("mtime", 12)):
            if e.base256 or 0 <= numbers[key] < 8 ** (width - 1):
                continue
            if key.encode() not in given and not (key == "mtime" and isinstance(e.mtime, str)):
                records.append((key.encode(), str(numbers[key]).encode()))
            numbers[key] = 0
        records += [(b"SCHILY.xattr." + k, v) for k, v in e.xattrs.items()]
        for k, v in e.libarchive_xattrs.items():
            key = b"".join(bytes([c]) if 32 < c < 127 and c not in b"%=" else b"%%%02X" % c for c in k)
            records.append((b"LIBARCHIVE.xattr." + key, base64.b64encode(v)))
    split = _split(name) if e.prefix_split and e.format in ("pax", "ustar") else None
    if split:
        prefix, name = split
    elif len(name) > 100 and e.format == "pax":
        records.append((b"path", name))
    elif len(name) > 100 and e.format == "gnu":
        before += _header(b"././@LongLink", b"L", len(name) + 1, magic=b"ustar  \0") + _pad(name + b"\0")
    if len(link) > 100 and e.format == "pax":
        records.append((b"linkpath", link))
    elif len(link) > 100 and e.format == "gnu":
        before += _header(b"././@LongLink", b"K", len(link) + 1, magic=b"ustar  \0") + _pad(link + b"\0")
    if records:
        body = pax_records(records)
        before = _header(b"PaxHeaders/" + name[:80], b"x", len(body)) + _pad(body) + before
    magic = {"gnu": b"ustar  \0", "v7": b""}.get(e.format, b"ustar\x0000")
    tail, extra = _gnu_sparse_parts(e) if e.gnu_sparse else (b"", b"")
    return before + _header(name, e.type, link=link, major=e.major, minor=e.minor, uname=to_bytes(e.uname),
                            gname=to_bytes(e.gname), magic=magic, prefix=prefix, base256=e.base256, tail=tail,
                            **numbers) + extra


def encode(e):
    """All bytes of an entry, as chunks."""
    if isinstance(e, Raw):
        yield e.bytes
        return
    yield head(e)
    if isinstance(e.data, (bytes, bytearray)):
        yield _pad(bytes(e.data))
        return
    n = 0
    for piece in e.data:
        n += len(piece)
        yield piece
    yield b"\0" * (-n % BLOCK)


@dataclass
class Raw:
    bytes: bytes


def raw(data):
    return Raw(data)


def file(name, data=b"", **kw):
    return Entry(name, b"0", to_bytes(data) if isinstance(data, str) else data, **kw)


def directory(name, mode=0o755, **kw):
    name = to_bytes(name)
    return Entry(name if name.endswith(b"/") else name + b"/", b"5", mode=mode, **kw)


def symlink(name, target, **kw):
    return Entry(name, b"2", link=target, **{"mode": 0o777, **kw})


def hardlink(name, target, **kw):
    return Entry(name, b"1", link=target, **kw)


def char(name, major, minor, **kw):
    return Entry(name, b"3", major=major, minor=minor, **kw)


def block(name, major, minor, **kw):
    return Entry(name, b"4", major=major, minor=minor, **kw)


def fifo(name, **kw):
    return Entry(name, b"6", **kw)


def whiteout(path, **kw):
    """The marker that removes `path` of lower layers."""
    parent, slash, base = to_bytes(path).rpartition(b"/")
    return Entry(parent + slash + b".wh." + base, b"0", **kw)


def opaque(path, **kw):
    """The marker that hides all lower children of the directory `path`."""
    return Entry(to_bytes(path).rstrip(b"/") + b"/.wh..wh..opq", b"0", **kw)


def global_header(records):
    body = pax_records([(to_bytes(k), to_bytes(v)) for k, v in records])
    return Raw(_header(b"pax_global_header", b"g", len(body)) + _pad(body))


def sparse(name, segments, size, kind="1.0", **kw):
    """A sparse file: segments [(offset, bytes)...]; kind "0.0", "0.1", "1.0" (PAX) or "gnu" (type S)."""
    content = bytearray(size)
    for offset, piece in segments:
        content[offset:offset + len(piece)] = piece
    packed = b"".join(p for _, p in segments)
    shape = [(o, len(p)) for o, p in segments]
    common = dict(content=bytes(content), **kw)
    name = to_bytes(name)
    if kind == "gnu":
        return Entry(name, b"S", packed, format="gnu", gnu_sparse=(shape, size), **common)
    hidden = name.rpartition(b"/")[0] + b"/GNUSparseFile.0/" + name.rpartition(b"/")[2]
    number = lambda n: str(n).encode()     # noqa: E731
    if kind == "0.0":
        records = [(b"GNU.sparse.size", number(size)), (b"GNU.sparse.numblocks", number(len(shape)))]
        for o, n in shape:
            records += [(b"GNU.sparse.offset", number(o)), (b"GNU.sparse.numbytes", number(n))]
        return Entry(name, b"0", packed, pax=records, **common)
    if kind == "0.1":
        flat = b",".join(number(v) for pair in shape for v in pair)
        records = [(b"GNU.sparse.size", number(size)), (b"GNU.sparse.numblocks", number(len(shape))),
                   (b"GNU.sparse.map", flat), (b"GNU.sparse.name", name)]
        return Entry(hidden, b"0", packed, pax=records, **common)
    table = b"".join(b"%d\n" % v for v in [len(shape)] + [v for pair in shape for v in pair])
    records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", name),
               (b"GNU.sparse.realsize", number(size))]
    return Entry(hidden, b"0", _pad(table) + packed, pax=records, **common)


def tar_chunks(entries, end=b"\0" * 1024):
    for e in entries:
        yield from encode(e)
    yield end


# ---- compression

def _zstd(data, level=3):
    return subprocess.run(["zstd", "-q", f"-{level}", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


def _pieces(data, n):
    step = max(1, -(-len(data) // n))
    return [data[i:i + step] for i in range(0, len(data), step)] or [b""]


def compress(data, how):
    """how: none, gzip, gzip-multi (many members), zstd, zstd-multi (many frames and a skippable one),
    gzip-named and gzip-crc (every optional header field; umoci 0.4.7 cannot read the latter)."""
    if how == "none":
        return data
    if how == "gzip":
        return gzip.compress(data, 6, mtime=0)
    if how == "gzip-multi":
        return b"".join(gzip.compress(p, 6, mtime=0) for p in _pieces(data, 7))
    if how in ("gzip-named", "gzip-crc"):      # header with file name, comment and extra field; and a CRC of all that
        out = io.BytesIO()
        with gzip.GzipFile("layer.tar", "wb", 6, out, mtime=1) as f:
            f.write(data)
        plain = out.getvalue()
        start = plain.index(b"\0", 10) + 1
        flags = 0x04 | 0x08 | 0x10 | (0x02 if how == "gzip-crc" else 0)
        header = b"\x1f\x8b\x08" + bytes([flags]) + plain[4:10] + b"\x06\0AB\x02\0hi" + b"layer.tar\0" + b"a comment\0"
        if how == "gzip-crc":
            header += (zlib.crc32(header) & 0xffff).to_bytes(2, "little")
        return header + plain[start:]
    if how == "zstd":
        return _zstd(data)
    if how == "zstd-multi":
        frames = [_zstd(p) for p in _pieces(data, 7)]
        frames.insert(1, b"\x50\x2a\x4d\x18\x04\0\0\0skip")
        return b"".join(frames)
    raise ValueError(how)
