"""Real registries on 127.0.0.1, each with a directory of its own, and a proxy that counts what is asked of them.

    with DockerRegistry28() as reg:            reg.url, reg.host, reg.storage, reg.log
    with DockerRegistry28(auth="htpasswd", authority=Authority(dir)) as reg:      reg.user, reg.password, reg.authority.ca
    with TokenRegistry() as reg:               Bearer tokens from a real token server; user/password as above
    with CountingProxy(reg.url) as proxy:      proxy.url, proxy.count("blob_get"), proxy.requests("/manifests/")
"""
import http.client
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.parse

from .httpfake import CHUNK, Listener, _Handler
from .reqlog import Request

CACHE = pathlib.Path(os.environ.get("REGISTRYFS_TEST_CACHE")
                     or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "registryfs-tests")


class Missing(AssertionError):
    """Something the tests need is not installed: a failure, never a skip."""


def tool(name):
    """The path of a program: from the cache's bin, else from PATH. Raises Missing."""
    own = CACHE / "bin" / name
    if own.exists():
        return str(own)
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not found:
        raise Missing(f"{name} is not installed: run tests/install-tools.sh")
    return found


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A child process that listens on a port. Subclasses say how it is configured and started.

    address and enter: where it listens, and the words before its command that put it where that address is (nsenter ...).
    """

    address, enter = "127.0.0.1", ()

    def __init__(self, authority=None):
        self.authority, self.tls = authority, authority is not None
        self.dir = self.proc = self.port = None
        self.user, self.password = "user", "secret"

    def command(self):
        raise NotImplementedError

    def environment(self):
        return {}

    def start(self):
        self.dir = self.dir or pathlib.Path(tempfile.mkdtemp(prefix="registryfs-server."))
        for attempt in range(3):      # the port may be taken between free_port() and bind()
            self.port = self.port or free_port()
            self._spawn()
            if self._wait_port():
                return self
            self.port = None
        log = self.log
        self.stop()
        raise RuntimeError(f"{type(self).__name__} does not start:\n{log[-3000:]}")

    def _spawn(self):
        env = {"PATH": os.environ["PATH"], "HOME": str(self.dir), **self.environment()}
        with open(self.dir / "log", "ab") as log:
            # setpriv: the server ends even when the test run is killed
            self.proc = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self.enter, *self.command()], cwd=self.dir, env=env,
                                         stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _wait_port(self, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.proc.poll() is None:
            try:
                socket.create_connection((self.address, self.port), 1).close()
                return self.proc.poll() is None
            except OSError:
                time.sleep(0.02)
        self.kill()
        return False

    def kill(self, sig=signal.SIGKILL):
        """Ends the process; its data stay. start() brings it back on the same port."""
        if self.proc and self.proc.poll() is None:
            self.proc.send_signal(sig)
            self.proc.wait(10)

    def stop(self):
        self.kill()
        if self.dir:
            shutil.rmtree(self.dir, ignore_errors=True)
            self.dir = None

    def __enter__(self):
        return self.start() if self.proc is None else self

    def __exit__(self, *_):
        self.stop()

    @property
    def host(self):
        return f"{self.address}:{self.port}"

    @property
    def url(self):
        return ("https" if self.tls else "http") + "://" + self.host

    @property
    def log(self):
        return (self.dir / "log").read_text(errors="replace")


def htpasswd(path, user, password):
    line = subprocess.run([tool("htpasswd"), "-Bbn", user, password], check=True, capture_output=True).stdout
    path.write_bytes(line.strip() + b"\n")
    return path


class _Distribution(Server):
    """auth: None or "htpasswd". delete: whether DELETE is enabled. readonly: no writes at all. config: text added."""

    program = None

    def __init__(self, auth=None, authority=None, delete=True, config=""):
        super().__init__(authority)
        self.auth, self.delete, self.config = auth, delete, config

    @property
    def storage(self):
        """The storage directory: what images.fill_storage() wants."""
        return self.dir / "data"

    def auth_section(self):
        if self.auth is None:
            return ""
        path = htpasswd(self.dir / "htpasswd", self.user, self.password)
        return f"auth:\n  htpasswd:\n    realm: tests\n    path: {path}\n"

    def command(self):
        self.storage.mkdir(exist_ok=True)
        tls = f"  tls:\n    certificate: {self.authority.cert}\n    key: {self.authority.key}\n" if self.tls else ""
        (self.dir / "config.yml").write_text(
            "version: 0.1\nlog:\n  level: info\n"
            f"storage:\n  filesystem:\n    rootdirectory: {self.storage}\n  delete:\n    enabled: {str(self.delete).lower()}\n"
            "  maintenance:\n    uploadpurging:\n      enabled: false\n"
            f"http:\n  addr: {self.host}\n  secret: tests\n{tls}{self.auth_section()}{self.config}")
        return [tool(self.program), "serve", str(self.dir / "config.yml")]

    def environment(self):
        return {"OTEL_TRACES_EXPORTER": "none"}


class DockerRegistry28(_Distribution):
    """Debian's docker-registry 2.8: no referrers, no tag DELETE, ignores n on tags/list."""

    program = "docker-registry"


class Distribution3(_Distribution):
    """distribution 3: tag DELETE, no referrers."""

    program = "distribution3"


class GgcrRegistry(Server):
    """go-containerregistry's in-memory registry: no referrers API (its program leaves it off); accepts wrong things."""

    def command(self):
        return [tool("ggcr-registry"), "-port", str(self.port)]


class ReferrersRegistry(Server):
    """go-containerregistry's again, with the referrers API: servers/referrers."""

    def command(self):
        return [tool("referrers-registry"), "-addr", self.host]


class TokenServer(Server):
    """docker/distribution's token-server: real Bearer tokens for repositories below `<user>/`, pull for all others."""

    issuer = "registryfs-tests"

    def command(self):
        key, cert = self.dir / "token.key", self.dir / "token.pem"
        if not cert.exists():
            run = lambda *a: subprocess.run(["openssl", *a], check=True, capture_output=True)     # noqa: E731
            run("genrsa", "-traditional", "-out", str(key), "2048")
            run("req", "-x509", "-new", "-key", str(key), "-days", "30", "-subj", "/CN=token", "-out", str(cert))
        self.cert = cert
        tls = ["-tlscert", self.authority.cert, "-tlskey", self.authority.key] if self.tls else []
        return [tool("token-server"), "-addr", self.host, "-issuer", self.issuer, "-realm", f"{self.url}/token/", "-key", str(key),
                "-passwd", str(htpasswd(self.dir / "passwd", self.user, self.password)), *tls]


class TokenRegistry(DockerRegistry28):
    """docker-registry 2.8 behind a TokenServer (`.tokens`)."""

    def __init__(self, authority=None, **kw):
        super().__init__(authority=authority, **kw)
        self.tokens = TokenServer(authority)

    def start(self):
        self.tokens.start()
        return super().start()

    def stop(self):
        super().stop()
        self.tokens.stop()

    def auth_section(self):
        return (f"auth:\n  token:\n    realm: {self.tokens.url}/token/\n    service: tests\n    issuer: {TokenServer.issuer}\n"
                f"    rootcertbundle: {self.tokens.cert}\n")


# ---- the proxy

HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}


class _ProxyHandler(_Handler):
    """One client connection, one upstream connection, both kept alive."""

    upstream = None

    def _any(self):
        proxy = self.server.listener
        path, _, query = self.path.partition("?")
        request = proxy.record(Request(self.command, urllib.parse.unquote(path), query,
                                       {k.lower(): v for k, v in self.headers.items()}, server=proxy.name))
        try:
            self._forward(proxy, request)
        except (OSError, http.client.HTTPException):
            self._drop()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _any

    def _drop(self):
        self.close_connection = True
        if self.upstream:
            self.upstream.close()
            self.upstream = None

    def finish(self):
        if self.upstream:
            self.upstream.close()
        super().finish()

    def _body(self):
        """Pieces of the client's body as they come."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            piece = self.rfile.read(min(CHUNK, left))
            if not piece:
                raise ConnectionResetError
            left -= len(piece)
            yield piece

    def _ask(self, proxy):
        new = self.upstream is None
        if new:
            self.upstream = proxy.connect()
        conn = self.upstream
        conn.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        for k, v in self.headers.items():
            if k.lower() == "host" and proxy.rewrite_host:
                v = proxy.target.netloc
            if k.lower() not in HOP and k.lower() != "expect":
                conn.putheader(k, v)
        if chunked:
            conn.putheader("Transfer-Encoding", "chunked")
        conn.endheaders()
        sent = False
        for piece in self._body():
            conn.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            sent = True
        if chunked:
            conn.send(b"0\r\n\r\n")
        try:
            return conn.getresponse()
        except (ConnectionError, http.client.RemoteDisconnected):
            self.upstream.close()
            self.upstream = None
            if new or sent or self.command not in ("GET", "HEAD"):
                raise
            return self._ask(proxy)   # an idle connection that the server had closed

    def _forward(self, proxy, request):
        r = self._ask(proxy)
        bodyless = self.command == "HEAD" or r.status in (204, 304)
        lines = [f"HTTP/1.1 {r.status} {r.reason}"] + [f"{k}: {v}" for k, v in r.getheaders() if k.lower() not in HOP]
        chunked = not bodyless and r.length is None and r.getheader("Content-Length") is None
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        request.status = r.status     # before the client can know
        self.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if bodyless:
            r.read()
            return
        expected = r.length
        while piece := r.read1(CHUNK):
            request.bytes += len(piece)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        if expected is not None and request.bytes != expected:
            return self._drop()       # cut short above: cut short here
        r.close()                     # read1() does not tell the connection that it is free
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        if r.will_close:
            self._drop()


class CountingProxy(Listener):
    """In front of any registry: streams, keeps connections alive, records every request (see reqlog.RequestLog).

    The Host header passes unchanged, so that Locations lead back here; rewrite_host=True sends the target's own.
    """

    handler = _ProxyHandler

    def __init__(self, target, authority=None, rewrite_host=False, cafile=None, name="proxy"):
        super().__init__(name, authority)
        self.target, self.rewrite_host, self.cafile = urllib.parse.urlsplit(target), rewrite_host, cafile

    def connect(self):
        if self.target.scheme == "https":
            import ssl
            return http.client.HTTPSConnection(self.target.netloc, timeout=120,
                                               context=ssl.create_default_context(cafile=self.cafile))
        return http.client.HTTPConnection(self.target.netloc, timeout=120)
