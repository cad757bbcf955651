# SPDX-License-Identifier: GPL-3.0-or-later
"""The certificates and kubeconfigs of one cluster: an authority of its own, so that no other cluster believes them."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# ansible-core itself requires it, so wherever the tests can run it is there.
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
_ADDRESSES = ("127.0.0.1", "10.96.0.1")
_DAYS = 2


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    crt: Path
    key: Path


class Authority:
    """Signs for one cluster; its files are in `folder`, 0700."""

    def __init__(self, folder: Path, name: str = "lab authority") -> None:
        self.folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.pair = self._write("ca", self._certificate(name, (), self._key, server=True), self._key)

    @property
    def ca(self) -> Path:
        return self.pair.crt

    def server(self, name: str) -> Pair:
        """For a server on loopback."""
        return self._issue(name, name, (), server=True)

    def client(self, user: str, *groups: str) -> Pair:
        """For a user whom Kubernetes knows by this name and these groups."""
        return self._issue(user.replace(":", "-"), user, groups, server=False)

    def signing_key(self, name: str) -> Path:
        """A bare key, for the tokens of service accounts."""
        return _write_key(self.folder / f"{name}.key", ec.generate_private_key(ec.SECP256R1()))

    def kubeconfig(self, path: Path, url: str, user: str, *groups: str) -> Path:
        """A file (0600) that holds all it needs, so that it may be copied."""
        return write_kubeconfig(path, url, self.ca, user, client=self.client(user, *groups))

    def _issue(self, file: str, name: str, groups: Sequence[str], server: bool) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        return self._write(file, self._certificate(name, groups, key, server), key)

    def _certificate(
        self, name: str, groups: Sequence[str], key: ec.EllipticCurvePrivateKey, server: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        own = key is self._key
        names: list[x509.GeneralName] = [x509.DNSName(each) for each in _NAMES]
        names += [x509.IPAddress(ipaddress.ip_address(each)) for each in _ADDRESSES]
        builder = (
            x509.CertificateBuilder()
            .subject_name(_subject(name, groups))
            .issuer_name(_subject(self._name, ()))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=_DAYS))
            .add_extension(x509.BasicConstraints(ca=own, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        # Python 3.13 takes no authority that does not say that it may sign.
        builder = builder.add_extension(_key_usage(signs=own), critical=True)
        if not own:
            usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if server and not own:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
        crt = self.folder / f"{name}.crt"
        crt.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return Pair(crt, _write_key(self.folder / f"{name}.key", key))


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def write_kubeconfig(
    path: Path, url: str, ca: Path, user: str, *, client: Pair | None = None, token: str | None = None
) -> Path:
    """JSON, which is YAML too."""
    who: dict[str, Any] = {"token": token} if token else {}
    if client:
        who = {"client-certificate-data": _base64(client.crt), "client-key-data": _base64(client.key)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": url, "certificate-authority-data": _base64(ca)}}],
        "users": [{"name": user, "user": who}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
        "current-context": "lab",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def _subject(name: str, groups: Sequence[str]) -> x509.Name:
    parts = [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*parts, x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return path


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
