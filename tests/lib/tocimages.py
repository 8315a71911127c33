"""Images whose layers carry a table of contents, made by the formats' own libraries (tests/fixtures/toctool).

    layer = toc_layer(tar_bytes, "estargz", chunk=4096, min=50_000)
    image = toc_image([tar_bytes, ...], "zstdchunked-containers")
    layout = converted_layout(benchmark_image / "oci", "estargz")      # kept between runs
"""
import fcntl
import io
import json
import os
import pathlib
import shutil
import struct
import subprocess
import tarfile
import tempfile
import zlib

from . import servers
from .images import Image, Layer, sha256, write_layout

FORMATS = ["estargz", "zstdchunked-stargz", "zstdchunked-containers"]
TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
TOOL = servers.CACHE / "bin" / "toctool"


def toc_layer(tar, fmt, annotations=None, **options):
    """tar: bytes, or the path of an archive. annotations: replaces what the tool says (a function of it)."""
    with tempfile.TemporaryDirectory(prefix="toctool-") as tmp:
        source, out = pathlib.Path(tmp, "in.tar"), pathlib.Path(tmp, "out")
        if isinstance(tar, bytes):
            source.write_bytes(tar)
        else:
            source = tar
        flags = [f"-{k}={v}" for k, v in options.items()]
        p = subprocess.run([TOOL, fmt, *flags, source, out], capture_output=True, text=True, env={**os.environ, "TMPDIR": tmp})
        if p.returncode:
            raise ValueError(p.stderr)
        said = json.loads(p.stdout)
        notes = annotations(said["annotations"]) if annotations else said["annotations"]
        return Layer.from_blob(out.read_bytes(), said["diffID"], said["mediaType"], notes)


def toc_image(tars, fmt, **options):
    return Image([toc_layer(t, fmt, **options) for t in tars])


def tars_of(layout):
    """The uncompressed layers of a layout's first image, as files in a directory that goes with the object returned first."""
    index = json.loads((layout / "index.json").read_text())
    blob = lambda d: layout / "blobs" / d.replace(":", "/")                                  # noqa: E731
    tmp, out = tempfile.TemporaryDirectory(prefix="layers-"), []
    for i, la in enumerate(json.loads(blob(index["manifests"][0]["digest"]).read_text())["layers"]):
        out.append(pathlib.Path(tmp.name, f"{i}.tar"))
        with open(out[-1], "wb") as f:
            tool = ["zstd", "-dc"] if la["mediaType"].endswith("zstd") else ["gzip", "-dc"]
            subprocess.run([*tool, blob(la["digest"])], stdout=f, check=True)
    return tmp, out


def converted_layout(layout, fmt, **options):
    """A layout with the same image in another format as 1.0, made once."""
    base = servers.CACHE / "toc-images"
    base.mkdir(parents=True, exist_ok=True)
    index = json.loads((layout / "index.json").read_text())
    name = index["manifests"][0]["digest"].split(":")[1][:16] + "-" + fmt + "".join(f"-{k}{v}" for k, v in sorted(options.items()))
    with open(base / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / name).exists():
            tmp, tars = tars_of(layout)
            with tmp:
                shutil.rmtree(base / ".new", ignore_errors=True)
                write_layout(base / ".new", {"1.0": toc_image(tars, fmt, **options)})
                (base / ".new").rename(base / name)
    return base / name


# ---- changing what the tools made

def _member(data, extra=b""):
    """A gzip member; with an extra field when there is one."""
    z = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = z.compress(data) + z.flush()
    head = b"\x1f\x8b\x08" + (b"\x04" if extra else b"\0") + b"\0" * 4 + b"\0\xff"
    head += struct.pack("<H", len(extra)) + extra if extra else b""
    return head + body + struct.pack("<II", zlib.crc32(data), len(data))


def footer(offset, legacy=False):
    text = b"%016xSTARGZ" % offset
    extra = text if legacy else b"SG" + struct.pack("<H", len(text)) + text
    return (b"\x1f\x8b\x08\x04" + b"\0" * 4 + b"\0\xff" + struct.pack("<H", len(extra)) + extra + b"\x01\0\0\xff\xff" + b"\0" * 8)


def toc_of(layer):
    """(offset, JSON bytes) of an eStargz layer's table of contents."""
    offset = int(layer.blob[-51 + 16:-51 + 32], 16)
    with tarfile.open(fileobj=io.BytesIO(zlib.decompress(layer.blob[offset:-51], 31))) as t:
        return offset, t.extractfile("stargz.index.json").read()


def with_toc(layer, change=None, legacy=False, text=None, digest=None):
    """The eStargz layer with its table of contents changed (a function of the parsed one, or other bytes), sound otherwise."""
    offset, old = toc_of(layer)
    doc = json.loads(old)
    if change:
        change(doc)
    new = text if text is not None else json.dumps(doc, ensure_ascii=False).encode() if change else old
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as t:
        info = tarfile.TarInfo("stargz.index.json")
        info.size = len(new)
        t.addfile(info, io.BytesIO(new))
    blob = layer.blob[:offset] + _member(tar.getvalue()) + footer(offset, legacy)
    return Layer.from_blob(blob, layer.diff_id, layer.media_type, {**layer.annotations, TOC_DIGEST: digest or sha256(new)})


def without_annotations(layer):
    return Layer.from_blob(layer.blob, layer.diff_id, layer.media_type)
