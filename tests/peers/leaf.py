"""Certificates of the authority of `aerostack dev`, for clients that `dev` makes none for, and certificates that sign
themselves."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def client(pki: Path, folder: Path, name: str, principal: str, *, expired: bool = False) -> list[str]:
    """Makes a client certificate, and answers the flags of the command line that name it."""
    authority = x509.load_pem_x509_certificate((pki / "ca.pem").read_bytes())
    signer = serialization.load_pem_private_key((pki / "ca-key.pem").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    end = datetime.now(timezone.utc) + timedelta(minutes=-1 if expired else 60)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"aerostack {name}")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(minutes=90))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(principal)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    files = folder / f"{name}.pem", folder / f"{name}-key.pem"
    files[0].write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    files[1].touch(0o600)
    private = serialization.PrivateFormat.PKCS8
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    return ["--cert", str(files[0]), "--key", str(files[1])]


def renew(pki: Path, name: str) -> None:
    """Replaces a certificate and its key, which `aerostack dev` made, by new ones with the same names."""
    authority = x509.load_pem_x509_certificate((pki / "ca.pem").read_bytes())
    signer = serialization.load_pem_private_key((pki / "ca-key.pem").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    old = x509.load_pem_x509_certificate((pki / f"{name}.pem").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(minutes=10))
    )
    for kind in (x509.SubjectAlternativeName, x509.ExtendedKeyUsage):
        extension = old.extensions.get_extension_for_class(kind)
        builder = builder.add_extension(extension.value, extension.critical)
    private = serialization.PrivateFormat.PKCS8
    contents = {
        f"{name}-key.pem": key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()),
        f"{name}.pem": builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
    }
    for file, content in contents.items():
        new = pki / f"{file}.new"
        new.touch(0o600)
        new.write_bytes(content)
        new.rename(pki / file)


def self_signed(folder: Path, name: str, *, expired: bool = False) -> tuple[Path, Path]:
    """Makes the certificate of a server, which is its own authority, and its key. `name` is `DNS:…` or `IP:…`."""
    kind, value = name.split(":")
    alternative = x509.DNSName(value) if kind == "DNS" else x509.IPAddress(ip_address(value))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a server of a test")])
    key = ec.generate_private_key(ec.SECP256R1())
    end = datetime.now(timezone.utc) + timedelta(hours=-1 if expired else 24)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(hours=25))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "cert.pem", folder / "key.pem"
    files[1].touch(0o600)
    private = serialization.PrivateFormat.PKCS8
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return files
