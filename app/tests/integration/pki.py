"""A certificate authority and leaf certificates for one test, made with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

P256 = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def authority(root: Path, name: str) -> Path:
    """Make ``name``.crt and ``name``.key; returns the path without the ending."""
    key, cert = str(root / f"{name}.key"), str(root / f"{name}.crt")
    extension = "keyUsage=critical,keyCertSign,cRLSign"
    openssl(
        "req", "-x509", *P256, "-days", "2", "-keyout", key, "-out", cert, "-subj", f"/CN={name}", "-addext", extension
    )
    return root / name


def certificate(root: Path, ca: Path, name: str, san: str) -> tuple[Path, Path]:
    """Make a certificate for server and client use, signed by ``ca``. Returns it and its key."""
    key, request, cert, ext = (root / f"{name}.{s}" for s in ("key", "csr", "crt", "ext"))
    ext.write_text(
        f"subjectAltName={san}\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
        "extendedKeyUsage=serverAuth,clientAuth\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    openssl("req", "-new", *P256, "-keyout", str(key), "-out", str(request), "-subj", f"/CN={name}")
    signer = ("-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-CAcreateserial")
    openssl("x509", "-req", "-in", str(request), *signer, "-days", "2", "-extfile", str(ext), "-out", str(cert))
    return cert, key
