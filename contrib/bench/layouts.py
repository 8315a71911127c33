"""The images that the benchmark adds to those of tests/fixtures: kept in the tests' cache, made once."""
import io
import json
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

from lib import servers
from lib.images import Image, Layer, write_layout

PYTHON_NEEDS = "libexpat1"      # all else that its Python needs is in the image


def with_python(layout):
    """The image with one more layer, below the last one, so that its Python starts."""
    made = servers.CACHE / "benchmark-image/ocipython"
    if (made / "index.json").exists():
        return made
    blob = lambda digest: (layout / "blobs" / digest.replace(":", "/")).read_bytes()                 # noqa: E731
    manifest = json.loads(blob(json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]))
    diff_ids = json.loads(blob(manifest["config"]["digest"]))["rootfs"]["diff_ids"]
    layers = [Layer.from_blob(blob(la["digest"]), d, la["mediaType"]) for la, d in zip(manifest["layers"], diff_ids)]
    layers.insert(-1, Layer(tar=_package(PYTHON_NEEDS)))
    part = made.with_name("ocipython.part")
    shutil.rmtree(part, ignore_errors=True)
    write_layout(part, {"1.0": Image(layers)})
    part.rename(made)
    return made


def _package(name):
    """The files of a Debian package as a tar, where /lib is a link to /usr/lib."""
    with tempfile.TemporaryDirectory(prefix="registryfs-bench.") as tmp:
        get = ["apt-get", "-qq", "download", name]
        if subprocess.run(get, cwd=tmp, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            subprocess.run(["apt-get", "-qq", "update"], check=True, stdout=subprocess.DEVNULL)
            subprocess.run(get, cwd=tmp, check=True, stdout=subprocess.DEVNULL)
        deb = next(pathlib.Path(tmp).glob("*.deb"))
        old = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], check=True, capture_output=True).stdout
    new = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(old)) as source, tarfile.open(fileobj=new, mode="w") as target:
        for member in source:
            if member.isdir():      # all are there, further down
                continue
            if member.name.startswith("./lib"):
                member.name = "./usr" + member.name[1:]
            target.addfile(member, source.extractfile(member) if member.isreg() else None)
    return new.getvalue()
