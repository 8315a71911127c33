"""Fixtures of all tests: tools, images, registries, mounts. What a test needs and is missing makes it fail; only what the
kernel or a container does not give (loop devices) makes it skip."""
import pathlib
import signal
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from lib import servers, tls                      # noqa: E402
from lib.fakereg import FakeRegistry              # noqa: E402
from lib.rfs import Mount                         # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="run the tests marked long as well")


def pytest_configure(config):
    # What a background job or nohup has us ignore, the programs that are started here would ignore as well.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL), (signal.SIGHUP, signal.SIG_DFL)):
        signal.signal(number, handler)
    config.addinivalue_line("markers", "long: takes many seconds; run with --long only")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--long"):
        return
    long = [i for i in items if i.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [i for i in items if not i.get_closest_marker("long")]


@pytest.fixture(scope="session")
def tools():
    """Fails when anything of tests/install-tools.sh is missing; a function from a tool's name to its path."""
    p = subprocess.run([HERE / "install-tools.sh", "--check"], capture_output=True, text=True)
    assert p.returncode == 0, p.stdout + p.stderr
    return servers.tool


@pytest.fixture(scope="session")
def benchmark_image():
    """The directory with the layouts oci, ocizstd and ocifull, each tagged 1.0; built when it is not there (a minute)."""
    p = subprocess.run([HERE / "fixtures" / "make-benchmark-image.sh"], capture_output=True, text=True)
    assert p.returncode == 0, p.stdout + p.stderr
    return servers.CACHE / "benchmark-image"


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """A certificate authority for 127.0.0.1 (tls.Authority)."""
    return tls.Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def registry28():
    with servers.DockerRegistry28() as server:
        yield server


@pytest.fixture(scope="session")
def distribution3():
    with servers.Distribution3() as server:
        yield server


@pytest.fixture(scope="session")
def ggcr():
    with servers.GgcrRegistry() as server:
        yield server


@pytest.fixture(scope="session")
def referrers_registry():
    with servers.ReferrersRegistry() as server:
        yield server


@pytest.fixture
def fakereg():
    """A fresh fake registry, plain and open; its switches may be changed."""
    with FakeRegistry() as reg:
        yield reg
        assert not reg.failures, reg.failures


@pytest.fixture
def make_fakereg():
    """make_fakereg(auth="bearer", authority=...) -> a started FakeRegistry; ends with the test."""
    made = []

    def make(*args, **kw):
        made.append(FakeRegistry(*args, **kw).start())
        return made[-1]
    yield make
    for reg in made:
        reg.stop()
    assert not [f for reg in made for f in reg.failures]


@pytest.fixture
def mount():
    """mount(source, options=..., ...) -> a started lib.rfs.Mount; unmounted and checked at the end of the test."""
    made = []

    def make(*args, **kw):
        m = Mount(*args, **kw)
        made.append(m)
        return m.start()
    yield make
    problems = []
    for m in reversed(made):
        try:
            problems += m.finish()
        finally:
            m._remove()
    assert not problems, "\n".join(problems)


@pytest.fixture
def proxy():
    """proxy(url) -> a started CountingProxy in front of it."""
    made = []

    def make(url, **kw):
        made.append(servers.CountingProxy(url, **kw).start())
        return made[-1]
    yield make
    for p in made:
        p.stop()
