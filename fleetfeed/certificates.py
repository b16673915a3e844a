"""A local certificate authority and the server certificate that it signs: one folder, made once, renewed in time.

tls/
  ca.pem       what clients check against: give it to robots (`FLEETFEED_EDGE_CA_FILE`)
  ca.key       its private key (0600)
  server.pem   the server's certificate and private key (0600), as HAProxy reads it

Both keys are P-256. The authority may sign no other authority.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleetfeed.errors import StackError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 90
RENEW_DAYS = 30
EARLIER = timedelta(days=1)
"""Certificates begin so long ago: a robot's clock may be slow."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Authority:
    """A certificate that clients trust, and the key that signs in its name."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def in_folder(cls, folder: Path, *, now: datetime | None = None) -> Authority:
        """The folder's, made if there is none yet. Raises `StackError` if its files cannot be read."""
        paths = folder / "ca.pem", folder / "ca.key"
        if not all(path.exists() for path in paths):
            made = cls.new(now=now or datetime.now(UTC))
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(paths[1], _key_pem(made.key), mode=0o600)
            _write(paths[0], _pem(made.certificate), mode=0o644)
        try:
            key = load_pem_private_key(paths[1].read_bytes(), None)
            certificate = x509.load_pem_x509_certificate(paths[0].read_bytes())
        except ValueError as error:
            raise StackError(f"{folder} holds no certificate authority: {error}; remove it for a new one") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise StackError(f"{paths[1]} is not the key of {paths[0]}; remove both for a new authority")
        return cls(certificate, key)

    @classmethod
    def new(cls, *, now: datetime) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fleetfeed local authority {os.urandom(4).hex()}")])
        built = _builder(name, issuer=name, key=key.public_key(), now=now, days=AUTHORITY_DAYS)
        built = built.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        built = built.add_extension(_usage(signs_certificates=True), critical=True)
        return cls(built.sign(key, hashes.SHA256()), key)

    def sign_server(self, names: Sequence[str], *, now: datetime, days: float = SERVER_DAYS) -> bytes:
        """A new key and its certificate for these host names and addresses: PEM, the certificate first."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fleetfeed")])
        built = _builder(subject, issuer=self.certificate.subject, key=key.public_key(), now=now, days=days)
        own = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        built = built.add_extension(own, critical=False)
        built = built.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        built = built.add_extension(_usage(signs_certificates=False), critical=True)
        built = built.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        built = built.add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        return _pem(built.sign(self.key, hashes.SHA256())) + _key_pem(key)


def ensure_server_certificate(folder: Path, *, names: Sequence[str] = (), now: datetime | None = None) -> bool:
    """See to it that `server.pem` is good for loopback and `names`, and for `RENEW_DAYS` more. Whether it is new.

    Raises `StackError` for a name that is neither a host name nor an address.
    """
    at = now or datetime.now(UTC)
    authority = Authority.in_folder(folder, now=at)
    wanted = [*dict.fromkeys([*LOOPBACK_NAMES, *names])]
    path = folder / "server.pem"
    if path.exists() and _is_good(path.read_bytes(), authority, wanted, at):
        return False
    _write(path, authority.sign_server(wanted, now=at), mode=0o600)
    return True


def _is_good(pem: bytes, authority: Authority, names: Sequence[str], now: datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.verify_directly_issued_by(authority.certificate)
        is_its_key = load_pem_private_key(pem, None).public_key() == certificate.public_key()
        held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # noqa: BLE001 - whatever is wrong with it, a new one is not
        return False
    lasts = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - timedelta(days=RENEW_DAYS)
    return is_its_key and lasts and set(held) == {_name(name) for name in names}


def _builder(
    subject: x509.Name, *, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise StackError(f"a name of the server must be a host name or an address, got {name!r}") from error


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """Whole or not at all, and never readable for more than `mode` says."""
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    draft.replace(path)
