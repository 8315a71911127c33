"""A certificate authority and a server certificate for 127.0.0.1 and localhost, made by openssl at test time."""
import os
import ssl
import subprocess


class Authority:
    """Files in `directory`: ca.pem, ca.key, server.pem, server.key (and expired.pem when asked for)."""

    def __init__(self, directory):
        self.dir = str(directory)
        os.makedirs(self.dir, exist_ok=True)
        self.ca = self._path("ca.pem")
        self.cert, self.key = self._path("server.pem"), self._path("server.key")
        if not os.path.exists(self.cert):
            self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=registryfs tests",
                          "-keyout", self._path("ca.key"), "-out", self.ca)
            self._sign("server", "IP:127.0.0.1,DNS:localhost", self.cert, self.key)

    def _path(self, name):
        return os.path.join(self.dir, name)

    def _openssl(self, *args):
        subprocess.run(["openssl", *args], check=True, capture_output=True, text=True)

    def _sign(self, name, san, cert, key):
        csr, ext = self._path(name + ".csr"), self._path(name + ".ext")
        with open(ext, "w") as f:
            f.write(f"subjectAltName={san}\n")
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", csr)
        self._openssl("x509", "-req", "-in", csr, "-CA", self.ca, "-CAkey", self._path("ca.key"), "-CAcreateserial",
                      "-days", "30", "-extfile", ext, "-out", cert)

    def wrong_host(self):
        """(certificate, key) by the same authority for a name nobody asks for."""
        cert, key = self._path("wrong.pem"), self._path("wrong.key")
        if not os.path.exists(cert):
            self._sign("wrong", "DNS:elsewhere.example", cert, key)
        return cert, key

    def server_context(self, cert=None, key=None):
        ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ctx.load_cert_chain(cert or self.cert, key or self.key)
        return ctx

    def client_context(self):
        return ssl.create_default_context(cafile=self.ca)
