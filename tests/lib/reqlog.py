"""The record of HTTP requests that the counting proxy and the fake registry keep.

A request is entered when its header has arrived, so a test that has its answer can count on it; status and bytes are
filled in when the answer has been sent.
"""
import re
import threading
import time
from dataclasses import dataclass, field

# kind -> (methods, regular expression on the path without the query)
KINDS = {
    "ping": (("GET", "HEAD"), r"/v2/?"),
    "manifest_get": (("GET",), r"/v2/.+/manifests/[^/]+"),
    "manifest_head": (("HEAD",), r"/v2/.+/manifests/[^/]+"),
    "manifest_put": (("PUT",), r"/v2/.+/manifests/[^/]+"),
    "manifest_delete": (("DELETE",), r"/v2/.+/manifests/[^/]+"),
    "blob_get": (("GET",), r"/v2/.+/blobs/[a-z0-9+._-]+:[^/]+|/cdn/.+"),
    "blob_head": (("HEAD",), r"/v2/.+/blobs/[a-z0-9+._-]+:[^/]+"),
    "upload": (("POST", "PATCH", "PUT"), r"/v2/.+/blobs/uploads/.*"),
    "tags_list": (("GET",), r"/v2/.+/tags/list"),
    "catalog": (("GET",), r"/v2/_catalog"),
    "referrers": (("GET",), r"/v2/.+/referrers/[^/]+"),
    "token": (("GET", "POST"), r"/(auth/)?token/?"),
}


@dataclass
class Request:
    method: str
    path: str                     # without the query
    query: str
    headers: dict                 # names in lower case; repeated ones joined with ", "
    status: int = 0               # 0: not answered (yet)
    bytes: int = 0                # of the answer's body
    time: float = field(default_factory=time.monotonic)
    server: str = ""              # which listener took it

    @property
    def target(self):
        return self.path + ("?" + self.query if self.query else "")

    @property
    def kind(self):
        for kind, (methods, path) in KINDS.items():
            if self.method in methods and re.fullmatch(path, self.path):
                return kind
        return "other"

    def __str__(self):
        return f"{self.method} {self.target} -> {self.status} ({self.bytes} bytes)"


class RequestLog:
    """Thread safe list of Requests. Mixed into whatever answers them."""

    def __init__(self):
        self._log = []
        self._log_lock = threading.Lock()

    def record(self, request):
        with self._log_lock:
            self._log.append(request)
        return request

    def reset(self):
        """Forgets all requests so far."""
        with self._log_lock:
            self._log.clear()

    def requests(self, pattern=None, method=None, kind=None):
        """Requests so far whose target (path?query) contains the regular expression."""
        with self._log_lock:
            found = list(self._log)
        return [r for r in found
                if (pattern is None or re.search(pattern, r.target))
                and (method is None or r.method == method)
                and (kind is None or r.kind == kind)]

    def count(self, kind=None):
        """How many requests of that kind (see KINDS); all without one."""
        if kind is not None and kind != "other" and kind not in KINDS:
            raise ValueError(f"no such kind of request: {kind}")
        return len(self.requests(kind=kind))

    def bytes_sent(self, kind=None):
        return sum(r.bytes for r in self.requests(kind=kind))

    def dump(self):
        return "\n".join(str(r) for r in self.requests())
