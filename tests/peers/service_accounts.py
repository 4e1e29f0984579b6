"""The part of an API server that identifies pods: it signs tokens of service accounts, publishes the keys that verify them, verifies
tokens itself, and decides by roles and bindings (RBAC) what an account may do."""

from __future__ import annotations

import base64
import secrets
import ssl
import time
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

ISSUER = "https://kubernetes.default.svc.cluster.local"
# The audience of a token that is meant for the API server.
API_AUDIENCE = ISSUER

Objects = list[dict[str, Any]]


class ServiceAccounts:
    """Keys like those of an API server: RSA, with an id. `rotate` adds a key that signs from then on."""

    def __init__(self) -> None:
        self._keys: dict[str, rsa.RSAPrivateKey] = {}
        self.rotate()

    def rotate(self) -> None:
        self._newest = secrets.token_hex(8)
        self._keys[self._newest] = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def token(self, namespace: str, name: str, audience: str, seconds: float) -> str:
        now = time.time()
        claims = {
            "iss": ISSUER,
            "sub": f"system:serviceaccount:{namespace}:{name}",
            "aud": [audience],
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now + seconds),
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": "1"}},
        }
        return jwt.encode(claims, self._keys[self._newest], "RS256", {"kid": self._newest})

    def key_set(self) -> dict[str, Any]:
        def number(value: int) -> str:
            length = (value.bit_length() + 7) // 8
            return base64.urlsafe_b64encode(value.to_bytes(length, "big")).rstrip(b"=").decode()

        public = {kid: key.public_key().public_numbers() for kid, key in self._keys.items()}
        common = {"kty": "RSA", "use": "sig", "alg": "RS256"}
        return {"keys": [{**common, "kid": kid, "n": number(n.n), "e": number(n.e)} for kid, n in public.items()]}

    def account(self, token: str) -> tuple[str, str] | None:
        """The namespace and the name of the account of a valid token for the API server."""
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]].public_key()
            claims = jwt.decode(token, key, ["RS256"], audience=API_AUDIENCE, issuer=ISSUER)
        except (jwt.InvalidTokenError, KeyError):
            return None
        _, _, namespace, name = claims["sub"].split(":")
        return namespace, name


def _roles(objects: Objects, account: tuple[str, str], namespace: str) -> list[tuple[str, str]]:
    """The kind and the name of the roles of an account in a namespace; an empty namespace is the whole cluster."""
    subject = {"kind": "ServiceAccount", "namespace": account[0], "name": account[1]}
    found = []
    for each in objects:
        is_here = each["kind"] == "ClusterRoleBinding" or (
            each["kind"] == "RoleBinding" and each["metadata"]["namespace"] == namespace
        )
        if is_here and subject in each["subjects"]:
            found.append((each["roleRef"]["kind"], each["roleRef"]["name"]))
    return found


def reads_keys(objects: Objects, account: tuple[str, str]) -> bool:
    return ("ClusterRole", "system:service-account-issuer-discovery") in _roles(objects, account, "")


def is_allowed(
    objects: Objects, account: tuple[str, str], verb: str, group: str, resource: str, namespace: str, name: str
) -> bool:
    for kind, role in _roles(objects, account, namespace):
        for each in objects:
            here = kind == "ClusterRole" or each["metadata"].get("namespace") == namespace
            if (each["kind"], each["metadata"]["name"]) != (kind, role) or not here:
                continue
            for rule in each["rules"]:
                names = rule.get("resourceNames", [name])
                if (
                    verb in rule["verbs"]
                    and group in rule["apiGroups"]
                    and resource in rule["resources"]
                    and name in names
                ):
                    return True
    return False


def server_context(folder: Path, address: str) -> tuple[ssl.SSLContext, bytes]:
    """TLS for an API server at an address, and the CA that a pod gets as `ca.crt`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    now = datetime.now(timezone.utc)

    def certificate(issuer: x509.Name, public: ec.EllipticCurvePublicKey, ca: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(issuer if ca else subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=12))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )

    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    ca = certificate(ca_name, ca_key.public_key(), True).sign(ca_key, hashes.SHA256())
    names = [x509.DNSName("kubernetes.default.svc"), x509.DNSName("kubernetes.default.svc.cluster.local")]
    leaf = (
        certificate(ca_name, key.public_key(), False)
        .add_extension(x509.SubjectAlternativeName([*names, x509.IPAddress(ip_address(address))]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    files = folder / "apiserver.pem", folder / "apiserver-key.pem"
    files[0].write_bytes(leaf.public_bytes(pem))
    plain = serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context, ca.public_bytes(pem)
