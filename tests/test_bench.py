"""The parts of contrib/bench that its figures rest on: the slow link, what is counted, what is printed."""
import os
import pathlib
import socket
import subprocess
import sys
import time
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "contrib/bench"))
import limits                                                        # noqa: E402
import link                                                          # noqa: E402
import peers                                                         # noqa: E402
import report                                                        # noqa: E402
import session                                                       # noqa: E402
from lib import images, servers                                      # noqa: E402

SEND = "import socket, sys; s = socket.create_server((sys.argv[1], 7)); print(flush=True); s.accept()[0].sendall(bytes(int(sys.argv[2])))"


@pytest.fixture
def slow():
    with link.Link(0.040, 20e6) as it:
        yield it
    left = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout
    assert not any(d in left for d in it.devices) and not it.children


def test_a_link_takes_as_long_as_it_says(slow):
    size = 1_000_000
    server = subprocess.Popen([*slow.enter, sys.executable, "-c", SEND, slow.address, str(size)], stdout=subprocess.PIPE)
    try:
        server.stdout.readline()
        start = time.monotonic()
        with socket.create_connection((slow.address, 7), 10) as s:
            assert time.monotonic() - start >= 0.040
            got = 0
            while piece := s.recv(65536):
                got += len(piece)
        assert got == size
        assert time.monotonic() - start >= 0.040 + size * 8 / 20e6
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_a_registry_behind_a_link_is_reached_by_nobody_else(slow, tools):
    registry = servers.DockerRegistry28()
    registry.address, registry.enter = slow.address, slow.enter
    with registry:
        assert os.readlink(f"/proc/{registry.proc.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        images.push(registry.url, "app", "1.0", images.Image([images.Layer([images.file("a", "b")])]))
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", registry.port), 1)


def section(kinds, tmp_path, runs=3):
    options = types.SimpleNamespace(program=tmp_path / "none", runs=runs, limit=60, budget=100)
    return session.Section("title", options, kinds)


def test_bytes_requests_and_connections_are_those_of_the_registry(tools, registry28, tmp_path):
    s = section([peers.Registryfs], tmp_path)
    s.registry, s.host = registry28, registry28.host
    layer = images.Layer([images.file("a", os.urandom(100_000))])
    images.push(registry28.url, "app", "1.0", images.Image([layer]))
    mark = s.log_size()
    url = f"{registry28.url}/v2/app/blobs/{layer.digest}"
    subprocess.run(["curl", "-sf", url, url, "-o", "/dev/null", "-o", "/dev/null"], check=True)      # one connection
    subprocess.run(["curl", "-sf", "-r", "0-9", url, "-o", "/dev/null"], check=True)
    s.traffic(peers.Registryfs(s, tmp_path), ["first"], mark)
    figures = s.figures["registryfs"]
    assert figures["first requests"] == [3] and figures["first connections"] == [2]
    assert figures["first MiB"] == [pytest.approx((2 * len(layer.blob) + 10) / 2**20)]


def test_the_report_shows_medians_ratios_and_whether_an_aim_is_reached(tmp_path):
    s = section([peers.Registryfs, limits.Bare, limits.LocalDisk, peers.Podman], tmp_path)
    s.figures = {"registryfs": {"first": [1, 3, 2], "last": [0.05] * 3, "find": [2] * 3, "all": [9] * 3},
                 limits.Bare.name: {"first": [2] * 3}, limits.LocalDisk.name: {"find": [0.5] * 3, "all": [1] * 3},
                 peers.Podman.name: {"first": [8, 8]}}
    s.over[peers.Podman.name, "find"] = 60
    text = report.markdown(s)
    row = next(line for line in text.splitlines() if line.startswith("| podman"))
    assert "8.00 (8.00-8.00) ×4.0 n=2" in row and "> 60 ×>30" in row
    assert "| registryfs | 2.00 (1.00-3.00)" in text
    said = {line.split("|")[1].split(":")[0].strip(): line.split("|")[5].strip() for line in text.splitlines() if "reached" in line}
    assert said == {"file of the last layer": "reached", "file of the first layer": "reached", "find": "reached",
                    "read all files": "not reached"}


def test_the_aims_of_other_formats_are_beside_the_plain_image_and_stargz_store(tmp_path):
    s = section([], tmp_path)
    s.figures = {"registryfs, gzip": {"all": [4] * 3, "all MiB": [100] * 3},
                 "registryfs, soci": {"first": [0.05] * 3, "first MiB": [2.5] * 3, "all": [4] * 3, "find": [1] * 3},
                 peers.StargzStore.name: {"find": [0.8] * 3}}
    assert [(what, value <= aim) for what, aim, value, _ in limits.aims(s)] == [
        ("soci: first file", True), ("soci: MiB for it", False), ("soci: read all files", True), ("soci: find", False)]
