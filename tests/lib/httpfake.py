"""A small threaded HTTP/1.1 server whose answers can be bent on purpose: the base of the fake registry.

A Listener turns each request into a Response by `answer(request, body)`. Rules pushed with `fault()` get between: an
action takes the request and a function that makes the proper answer, and returns the answer to send. What goes wrong on
the wire (reset, silence, stall, short body) is written into the Response and carried out here.
"""
import json
import re
import socket
import socketserver
import ssl
import struct
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from .reqlog import Request, RequestLog

CHUNK = 64 * 1024
MAX_STALL = 120     # seconds: no test leaves a thread behind for longer


class Zeros:
    """A body that is long but takes no memory."""

    def __init__(self, size, byte=b"\0"):
        self.size, self.byte = size, byte

    def __len__(self):
        return self.size

    def __getitem__(self, s):
        start, stop, _ = s.indices(self.size)
        return self.byte * max(0, stop - start)


@dataclass
class Response:
    status: int = 200
    headers: dict = field(default_factory=dict)
    body: object = b""                # bytes, or anything with len() and slices
    # what goes wrong on the wire
    delay: object = None              # seconds or threading.Event: before the first byte
    stall_at: tuple = None            # (body bytes sent before, seconds or Event)
    cut_at: int = None                # body bytes after which the connection ends ...
    reset: bool = False               # ... with RST instead of FIN
    silent: bool = False              # no answer at all: the connection is closed (or reset)
    rate: int = None                  # bytes a second
    chunked: bool = False             # Transfer-Encoding instead of Content-Length
    keep_length: bool = False         # Content-Length is what `headers` says, true or not

    @classmethod
    def json(cls, value, status=200, content_type="application/json", **headers):
        return cls(status, {"Content-Type": content_type, **headers}, json.dumps(value).encode())

    @classmethod
    def error(cls, status, code, message="", detail=None, **headers):
        return cls.json({"errors": [{"code": code, "message": message or code.lower(), "detail": detail}]}, status, **headers)


def _wait(what, stop):
    """Waits for seconds or an Event, but never past the end of the server."""
    end = time.monotonic() + (MAX_STALL if hasattr(what, "wait") else what)
    while time.monotonic() < end and not stop.is_set():
        if hasattr(what, "wait"):
            if what.wait(0.05):
                return
        else:
            time.sleep(min(0.05, max(0, end - time.monotonic())))


@dataclass
class Rule:
    method: str                       # a method, "A|B", or "*"
    path: str                         # regular expression searched in path?query
    action: object
    times: int = 1                    # how often it applies; None: for ever
    after: int = 0                    # matching requests let through first
    hits: int = 0                     # how often it has been applied

    def matches(self, request):
        return (self.method == "*" or request.method in self.method.split("|")) and bool(re.search(self.path, request.target))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 300

    def log_message(self, *_):
        pass

    def _body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            out = bytearray()
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                out += self.rfile.read(size)
                self.rfile.readline()
                if size == 0:
                    return bytes(out)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _any(self):
        listener = self.server.listener
        path, _, query = self.path.partition("?")
        headers = {}
        for k, v in self.headers.items():
            k = k.lower()
            headers[k] = headers[k] + ", " + v if k in headers else v
        request = Request(self.command, urllib.parse.unquote(path), query, headers, server=listener.name)
        listener.record(request)
        if headers.get("expect", "").lower() == "100-continue":
            pass                      # http.server has answered 100 already
        body = self._body()
        try:
            response = listener._respond(request, body)
            self._send(listener, request, response)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True
        except Exception as e:        # a mistake in the test or in here: say so loudly
            listener.failures.append(f"{request}: {e!r}")
            self._send(listener, request, Response(500, {"Content-Type": "text/plain"}, repr(e).encode()))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _any

    def _end(self, reset):
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.server.resets.add(self.connection)

    def _send(self, listener, request, r):
        if r.delay is not None:
            _wait(r.delay, listener.stopping)
        if r.silent:
            return self._end(r.reset)
        head = self.command == "HEAD"
        has_body = not head and r.status not in (204, 304) and r.status >= 200
        size = len(r.body)
        names = {k.lower() for k in r.headers}
        lines = [f"HTTP/1.1 {r.status} {self.responses.get(r.status, ('',))[0]}"]
        for k, v in r.headers.items():
            if k.lower() == "content-length" and not (head or r.keep_length):
                continue
            for one in v if isinstance(v, list) else [v]:
                lines.append(f"{k}: {one}")
        if r.chunked and has_body:
            lines.append("Transfer-Encoding: chunked")
        elif r.status not in (204, 304) and not (r.keep_length and "content-length" in names) \
                and not (head and "content-length" in names):
            lines.append(f"Content-Length: {size}")
        out = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        request.status = r.status
        if not has_body:
            self.wfile.write(out)
            return
        end = size if r.cut_at is None else min(size, r.cut_at)
        sent, stalled = 0, r.stall_at is None
        if r.stall_at and r.stall_at[0] == 0 or end == 0:
            self.wfile.write(out)
            out = b""
        while sent < end or not stalled:
            if not stalled and sent >= min(r.stall_at[0], end):
                _wait(r.stall_at[1], listener.stopping)
                stalled = True
                continue
            n = min(CHUNK if r.rate is None else max(1, r.rate // 10), end - sent)
            if not stalled:
                n = min(n, r.stall_at[0] - sent)
            piece = bytes(r.body[sent:sent + n])
            if r.chunked:
                piece = b"%x\r\n%s\r\n" % (len(piece), piece)
            request.bytes = sent + n  # before the write: who has the bytes may look
            self.wfile.write(out + piece)
            out = b""
            sent += n
            if r.rate is not None:
                time.sleep(n / r.rate)
        if r.cut_at is not None:
            return self._end(r.reset)
        if r.chunked:
            self.wfile.write(b"0\r\n\r\n")


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, address, listener):
        self.listener, self.resets, self.open = listener, set(), set()
        super().__init__(address, listener.handler)

    def process_request_thread(self, request, client_address):
        if self.listener.tls:         # the handshake belongs to the connection's own thread
            try:
                request.settimeout(30)
                request = self.listener.tls_context.wrap_socket(request, server_side=True)
            except (OSError, ssl.SSLError) as e:
                self.listener.tls_errors.append(str(e))
                request.close()
                return
        self.open.add(request)
        super().process_request_thread(request, client_address)

    def shutdown_request(self, request):
        self.open.discard(request)
        if request in self.resets:    # no FIN before the RST
            self.resets.discard(request)
            request.close()
        else:
            super().shutdown_request(request)

    def handle_error(self, request, client_address):
        pass                          # clients that hang up are nothing to report


class Listener(RequestLog):
    """A server on 127.0.0.1. Use as a context manager, or start() and stop().

    `authority` (tls.Authority) makes it https. `failures` lists exceptions raised in here; a test's teardown should find
    it empty. `tls_errors` lists failed handshakes.
    """

    handler = _Handler

    def __init__(self, name="fake", authority=None, port=0, cert=None):
        super().__init__()
        self.name, self.authority, self.tls = name, authority, authority is not None
        self.tls_context = authority.server_context(*(cert or ())) if authority else None
        self.failures, self.tls_errors = [], []
        self.stopping = threading.Event()
        self._rules, self._rules_lock = [], threading.Lock()
        self._port, self._server = port, None

    def start(self):
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        self.stopping.clear()
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name=self.name).start()
        return self

    def stop(self):
        """Ends the server and every connection. start() takes the same port again."""
        if self._server is None:
            return
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._server.open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._server = None

    def __enter__(self):
        return self.start() if self._server is None else self

    def __exit__(self, *_):
        self.stop()

    @property
    def port(self):
        return self._port

    @property
    def host(self):
        return f"127.0.0.1:{self._port}"

    @property
    def url(self):
        return ("https" if self.tls else "http") + "://" + self.host

    def fault(self, method, path, action, times=1, after=0):
        """From now on `times` requests that match are answered by `action` (times=None: all of them).

        Rules are tried in the order they were pushed; the first that applies is used up. Returns the Rule (see .hits).
        """
        rule = Rule(method, path, action, times, after)
        with self._rules_lock:
            self._rules.append(rule)
        return rule

    def clear_faults(self):
        with self._rules_lock:
            self._rules.clear()

    def _respond(self, request, body):
        action = None
        with self._rules_lock:
            for rule in self._rules:
                if not rule.matches(request) or rule.times == 0:
                    continue
                if rule.after > 0:
                    rule.after -= 1
                    continue
                if rule.times is not None:
                    rule.times -= 1
                rule.hits += 1
                action = rule.action
                break
        if action is None:
            return self.answer(request, body)
        return action(request, lambda: self.answer(request, body))

    def answer(self, request, body):
        """The proper answer; a subclass says what that is."""
        return Response(404, {"Content-Type": "text/plain"}, b"nothing here\n")
