"""Certificates and kubeconfigs of a cluster that lives for a test."""

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

DAYS = "30"


class Certificates:
    """A certificate authority in ``folder``, and what it signs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        self.authority = folder / "ca.crt"
        # As bare as those of clusters that were made years ago: Python's strict checks would refuse it.
        _openssl(
            "req", "-x509", *_new_key(self.key("ca")), "-days", DAYS, "-subj", "/CN=annotationrun-test-ca",
            "-addext", "subjectKeyIdentifier=none", "-addext", "authorityKeyIdentifier=none",
            "-out", self.authority,
        )  # fmt: skip
        _openssl(
            "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", self.key("tokens")
        )
        _openssl("pkey", "-in", self.key("tokens"), "-pubout", "-out", self.certificate("tokens"))

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def certificate(self, name: str) -> Path:
        """A certificate; of ``tokens``, which signs tokens of service accounts, the public key."""
        return self.folder / f"{name}.crt"

    def issue(self, name: str, subject: str, names: Sequence[str] = ()) -> None:
        """Sign a certificate for client and server; ``names`` as in ``DNS:localhost`` or ``IP:127.0.0.1``."""
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.cnf"
        lines = [
            "keyUsage=digitalSignature,keyEncipherment",
            "extendedKeyUsage=clientAuth,serverAuth",
            "subjectKeyIdentifier=none",
            "authorityKeyIdentifier=none",
        ]
        if names:
            lines.append(f"subjectAltName={','.join(names)}")
        extensions.write_text("\n".join(lines), encoding="utf-8")
        _openssl("req", "-new", *_new_key(self.key(name)), "-subj", subject, "-out", request)
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.authority, "-CAkey", self.key("ca"),
            "-CAcreateserial", "-days", DAYS, "-extfile", extensions, "-out", self.certificate(name),
        )  # fmt: skip

    def write_kubeconfig(self, name: str, server: str) -> Path:
        """A kubeconfig that holds the certificate ``name`` and its key."""
        path = self.folder / f"{name}.kubeconfig"
        content: Mapping[str, object] = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": server, "certificate-authority-data": _base64(self.authority)},
                }
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate-data": _base64(self.certificate(name)),
                        "client-key-data": _base64(self.key(name)),
                    },
                }
            ],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        return path


def _new_key(path: Path) -> list[str | Path]:
    # Elliptic curves: a key in milliseconds.
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-keyout", path]


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
