from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fleetfeed.certificates import RENEW_DAYS, SERVER_DAYS, Authority, ensure_server_certificate
from fleetfeed.errors import StackError

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def server_certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())


def verify(folder: Path, name: str, *, at: datetime = NOW) -> None:
    """As a client does, by the rules of the web (RFC 5280 and the CA/Browser Forum). `VerificationError`."""
    trusted = Store([x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())])
    subject = x509.IPAddress(ip_address(name)) if name[0].isdigit() or ":" in name else x509.DNSName(name)
    verifier = PolicyBuilder().store(trusted).time(at).build_server_verifier(subject)
    verifier.verify(server_certificate(folder), [])


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "ingest.example.com", "10.0.0.7"])
def test_the_certificate_is_good_for_loopback_and_the_names_that_were_given(tmp_path: Path, name: str) -> None:
    assert ensure_server_certificate(tmp_path, names=["ingest.example.com", "10.0.0.7"], now=NOW)
    verify(tmp_path, name)


def test_the_certificate_is_good_for_no_other_name_time_or_authority(tmp_path: Path) -> None:
    ensure_server_certificate(tmp_path / "one", now=NOW)
    for wrong in (
        {"name": "example.com"},
        {"name": "localhost", "at": NOW + timedelta(days=SERVER_DAYS + 1)},
        {"name": "localhost", "at": NOW - timedelta(days=2)},
    ):
        with pytest.raises(VerificationError):
            verify(tmp_path / "one", **wrong)  # type: ignore[arg-type]
    ensure_server_certificate(tmp_path / "other", now=NOW)
    (tmp_path / "one" / "ca.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    with pytest.raises(VerificationError):
        verify(tmp_path / "one", "localhost")


def test_the_server_cannot_sign_for_others(tmp_path: Path) -> None:
    ensure_server_certificate(tmp_path, now=NOW)
    held = server_certificate(tmp_path).extensions
    assert not held.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not held.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_keys_are_their_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ensure_server_certificate(tmp_path / "tls", now=NOW)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tls").iterdir()}
    assert modes == {"ca.pem": 0o644, "ca.key": 0o600, "server.pem": 0o600}
    assert load_pem_private_key((tmp_path / "tls" / "server.pem").read_bytes(), None)


def test_authority_and_certificate_stay_until_the_end_is_near(tmp_path: Path) -> None:
    assert ensure_server_certificate(tmp_path, now=NOW)
    authority, first = (tmp_path / "ca.pem").read_bytes(), server_certificate(tmp_path)
    assert not ensure_server_certificate(tmp_path, now=NOW + timedelta(days=SERVER_DAYS - RENEW_DAYS - 1))
    assert server_certificate(tmp_path) == first
    later = NOW + timedelta(days=SERVER_DAYS - RENEW_DAYS)
    assert ensure_server_certificate(tmp_path, now=later)
    assert server_certificate(tmp_path).not_valid_after_utc == later + timedelta(days=SERVER_DAYS)
    assert (tmp_path / "ca.pem").read_bytes() == authority
    verify(tmp_path, "localhost", at=later)


@pytest.mark.parametrize("spoil", ["other names", "torn", "without its key", "of another authority"])
def test_a_certificate_that_does_not_fit_is_made_anew(tmp_path: Path, spoil: str) -> None:
    ensure_server_certificate(tmp_path, now=NOW)
    path = tmp_path / "server.pem"
    if spoil == "torn":
        path.write_bytes(path.read_bytes()[:100])
    if spoil == "without its key":
        path.write_bytes(path.read_bytes().partition(b"-----BEGIN PRIVATE")[0])
    if spoil == "of another authority":
        path.write_bytes(Authority.new(now=NOW).sign_server(["localhost", "127.0.0.1", "::1"], now=NOW))
    names = ["robots.example.com"] if spoil == "other names" else []
    assert ensure_server_certificate(tmp_path, names=names, now=NOW)
    verify(tmp_path, "localhost")
    assert not ensure_server_certificate(tmp_path, names=names, now=NOW)


def test_a_name_that_is_none_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="host name or an address, got 'rö'"):
        ensure_server_certificate(tmp_path, names=["rö"], now=NOW)
    assert not (tmp_path / "server.pem").exists()


def test_files_that_are_no_authority_are_told_and_left(tmp_path: Path) -> None:
    Authority.in_folder(tmp_path, now=NOW)
    other = Authority.in_folder(tmp_path / "other", now=NOW)
    (tmp_path / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(StackError, match=r"ca.key is not the key of .*ca.pem"):
        ensure_server_certificate(tmp_path, now=NOW)
    (tmp_path / "ca.key").write_text("torn")
    with pytest.raises(StackError, match="holds no certificate authority"):
        ensure_server_certificate(tmp_path, now=NOW)
    assert Authority.in_folder(tmp_path / "other").certificate == other.certificate
