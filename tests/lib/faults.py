"""Ways for a server to misbehave: actions for httpfake.Listener.fault().

Each function returns an action, called with the request and a function that makes the proper Response.

    reg.fault("GET", "/blobs/", faults.short_body(100))                 once
    reg.fault("*", "/v2/", faults.too_many(retry_after=1), times=3)     three times
    reg.fault("GET", "tags/list.*last=", faults.server_error(), times=None)   the second page never comes
"""
import json as jsonlib
import re

from .httpfake import Response, Zeros


def status(code, body=b"", headers=None, json=None, html=None):
    """That status, with a raw, JSON or HTML body."""
    headers = dict(headers or {})
    if json is not None:
        body = jsonlib.dumps(json).encode()
        headers.setdefault("Content-Type", "application/json")
    elif html is not None:
        body = html.encode()
        headers.setdefault("Content-Type", "text/html; charset=utf-8")
    if isinstance(body, str):
        body = body.encode()
    return lambda request, proper: Response(code, headers, body)


def error(code, name, message="", headers=None):
    """A registry's error document: error(404, "MANIFEST_UNKNOWN")."""
    return status(code, json={"errors": [{"code": name, "message": message or name.lower()}]}, headers=headers)


def server_error(code=503):
    return error(code, "UNAVAILABLE" if code == 503 else "UNKNOWN")


def html(code=502):
    """What a broken proxy in front of the registry says, in HTML."""
    return status(code, html=f"<html><head><title>{code}</title></head><body><h1>{code} Not the registry</h1></body></html>")


def too_many(retry_after=1):
    """429; retry_after: seconds, an HTTP date, or None for no header."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return error(429, "TOOMANYREQUESTS", headers=headers)


def unauthorized(challenge='Basic realm="again"'):
    """401 with this challenge; see FakeRegistry.expire_tokens() for tokens that end mid-way."""
    return error(401, "UNAUTHORIZED", headers={"WWW-Authenticate": challenge})


def _edit(change):
    def action(request, proper):
        response = proper()
        return change(request, response) or response
    return action


def _set(**fields):
    def change(request, response):
        for k, v in fields.items():
            setattr(response, k, v)
    return _edit(change)


def reset():
    """RST instead of an answer."""
    return _set(silent=True, reset=True)


def close():
    """The connection ends without an answer."""
    return _set(silent=True)


def stall(until):
    """No byte until the Event is set, or for that many seconds; then the proper answer."""
    return _set(delay=until)


def stall_body(after, until):
    """Silence after that many bytes of the body."""
    return _set(stall_at=(after, until))


def short_body(sent):
    """Content-Length is right, but the connection ends after `sent` bytes of the body."""
    return _set(cut_at=sent)


def reset_body(sent):
    """RST after `sent` bytes of the body."""
    return _set(cut_at=sent, reset=True)


def slow(bytes_per_second):
    return _set(rate=bytes_per_second)


def chunked():
    """The proper answer without a Content-Length."""
    return _set(chunked=True)


def flip(position=0):
    """One byte of the body is wrong: the digest no longer fits."""
    def change(request, response):
        body = bytearray(response.body[0:len(response.body)])
        if body:
            body[position % len(body)] ^= 0x01
        response.body = bytes(body)
    return _edit(change)


def wrong_size(delta):
    """The body (and Content-Length) is `delta` bytes longer or shorter than the descriptor says."""
    def change(request, response):
        body = bytes(response.body[0:len(response.body)])
        response.body = body + b"x" * delta if delta > 0 else body[:delta]
        if "Content-Length" in response.headers:
            response.headers["Content-Length"] = str(int(response.headers["Content-Length"]) + delta)
    return _edit(change)


def claim_length(length):
    """A Content-Length that is not the body's; the connection ends after the body."""
    def change(request, response):
        response.headers["Content-Length"] = str(length)
        response.keep_length = True
        response.cut_at = len(response.body)
    return _edit(change)


def ignore_range():
    """200 with everything, as servers without Range do."""
    def action(request, proper):
        request.headers.pop("range", None)
        return proper()
    return action


def shift_range(by=1):
    """206 whose bytes and Content-Range start elsewhere than asked."""
    def action(request, proper):
        m = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if m:
            end = str(int(m[2]) + by) if m[2] else ""
            request.headers["range"] = f"bytes={int(m[1]) + by}-{end}"
        return proper()
    return action


def redirect(url, code=307):
    """To `url`; "{path}" in it stands for the request's path and query."""
    return lambda request, proper: Response(code, {"Location": url.replace("{path}", request.target)})


def redirect_metadata(code=307):
    """To the cloud metadata service: must never be followed."""
    return redirect("http://169.254.169.254/latest/meta-data/iam/security-credentials/", code)


def drop_header(name):
    def change(request, response):
        response.headers = {k: v for k, v in response.headers.items() if k.lower() != name.lower()}
    return _edit(change)


def set_header(name, value):
    def change(request, response):
        response.headers = {k: v for k, v in response.headers.items() if k.lower() != name.lower()}
        response.headers[name] = value
    return _edit(change)


def huge(size=100 << 20, content_type=None, byte=b" "):
    """A body of that size where a small one belongs (a manifest of 100 MB)."""
    def change(request, response):
        response.body = Zeros(size, byte)
        if content_type:
            response.headers["Content-Type"] = content_type
    return _edit(change)


def not_supported():
    """405, as for HEAD or DELETE that a registry does not have."""
    return error(405, "UNSUPPORTED")


def replace_body(body, content_type=None):
    """Another body under the same address (an index that lists itself, JSON that is none)."""
    def change(request, response):
        response.body = body
        if content_type:
            response.headers["Content-Type"] = content_type
    return _edit(change)


def index_loop():
    """Whatever manifest is asked for is an index that lists just that reference's digest: recursion without end."""
    media_type = "application/vnd.oci.image.index.v1+json"

    def change(request, response):
        ref = request.path.rpartition("/")[2]
        digest = ref if ":" in ref else "sha256:" + "1" * 64
        response.status, response.body = 200, jsonlib.dumps(
            {"schemaVersion": 2, "mediaType": media_type,
             "manifests": [{"mediaType": media_type, "digest": digest, "size": 200,
                            "platform": {"os": "linux", "architecture": "amd64"}}]}).encode()
        response.headers = {"Content-Type": media_type, "Docker-Content-Digest": digest}
    return _edit(change)


def then(*actions):
    """Several at once: each sees the answer of the one before it."""
    def action(request, proper):
        for a in actions:
            proper = (lambda a, inner: lambda: a(request, inner))(a, proper)
        return proper()
    return action
