"""A certificate authority for tests: certificates that are right, and ones that are wrong in one way each."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def pem(thing: x509.Certificate | Key, passphrase: str = "") -> str:
    """A certificate, or a key, locked with a passphrase if there is one."""
    if isinstance(thing, x509.Certificate):
        return thing.public_bytes(serialization.Encoding.PEM).decode()
    lock = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    return thing.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock).decode()


class Authority:
    """A CA; `root` signs itself, `under` is signed by another."""

    def __init__(self, name: str, under: "Authority | None" = None, days: float = 3650) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = _sign(self.name, self.key, under or self, days, ca=True)

    def issue(self, names: list[str], days: float = 90, key: Key | None = None) -> tuple[x509.Certificate, Key]:
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        return _sign(subject, key, self, days, names=names), key


def _sign(
    subject: x509.Name, key: Key, issuer: Authority, days: float, ca: bool = False, names: list[str] | None = None
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not ca,
                key_cert_sign=ca,
                crl_sign=ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(issuer.key, hashes.SHA256())


class Given:
    """Files of a given certificate for the edge, right unless told otherwise; `variables` names them for Ansible."""

    def __init__(self, place: Path, name: str, days: float = 90, root: Authority | None = None, key: Key | None = None) -> None:
        self.root = root or Authority("Test root")
        self.intermediate = Authority("Test intermediate", under=self.root)
        self.certificate, self.key = self.intermediate.issue([name, f"www.{name}"], days, key)
        self.files = {part: place / f"{part}.pem" for part in ("certificate", "key", "trust")}
        self.write("certificate", pem(self.certificate) + pem(self.intermediate.certificate))
        self.write("key", pem(self.key))
        self.write("trust", pem(self.root.certificate))
        self.variables: dict[str, object] = {f"edge_{part}_file": str(path) for part, path in self.files.items()}
        self.variables["edge_server_names"] = [name]

    def write(self, part: str, text: str) -> None:
        self.files[part].write_text(text)
