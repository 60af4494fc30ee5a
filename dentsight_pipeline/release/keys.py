"""The signing key of a workspace: made once, never overwritten, and whole or not there at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from dentsight_pipeline.errors import ReleaseError

PRIVATE_KEY, PUBLIC_KEY = "release-key.pem", "release-key.pub"


@dataclass(frozen=True)
class KeyPair:
    """Where a signing key lies; the private part never leaves its folder."""

    private: Path
    public: Path

    @classmethod
    def in_folder(cls, folder: Path) -> KeyPair:
        """Where the key of a folder lies, or would lie."""
        return cls(folder / PRIVATE_KEY, folder / PUBLIC_KEY)


def generate_key(folder: Path) -> KeyPair:
    """Makes an EC key (P-256) in `folder`; the private part is readable by its owner alone.

    Raises:
        ReleaseError: When one of the two files exists; a key is never overwritten, or old releases could no longer be
            verified.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pair = KeyPair.in_folder(folder)
    for path in (pair.private, pair.public):
        if path.exists():
            raise ReleaseError(f"{path} exists; a signing key is never overwritten. Use it, or name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_whole(pair.private, private, 0o600)
    _write_whole(pair.public, public_part(private), 0o644)
    return pair


def key_pair(folder: Path) -> KeyPair:
    """The key of a folder; made when there is none, by one of all who ask at the same moment.

    A public half that is missing is derived from the private one, as after a crash between the two.

    Raises:
        ReleaseError: When the private half alone is missing.
    """
    pair = KeyPair.in_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".release-key.lock"):
        if pair.private.is_file():
            if not pair.public.is_file():
                _write_whole(pair.public, public_part(pair.private.read_bytes()), 0o644)
            return pair
        if pair.public.is_file():
            raise ReleaseError(f"{folder} holds {PUBLIC_KEY}, but not {PRIVATE_KEY}. Restore the private key.")
        return generate_key(folder)


def public_part(private: bytes) -> bytes:
    """The public key, as PEM, of a private one.

    Raises:
        ReleaseError: No private key, or one that is locked by a password.
    """
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_private_key(private, password=None)
    except (ValueError, TypeError) as error:
        raise ReleaseError(f"{PRIVATE_KEY} is no unencrypted private key in PEM form: {error}. Restore it.") from error
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def same_public_key(one: str, other: str) -> bool:
    """Whether two texts in PEM form are one key, however each is written.

    Raises:
        ReleaseError: One of them is no public EC key.
    """
    return _point(one) == _point(other)


def _point(pem: str) -> bytes:
    """The point of a public EC key, with its curve."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, TypeError) as error:
        raise ReleaseError(f"A public key is none in PEM form: {error}. Give the .pub file of an EC key.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ReleaseError("A public key is not of the EC kind. Give the .pub file of an EC key.")
    form = serialization.PublicFormat.UncompressedPoint
    return key.curve.name.encode() + key.public_bytes(serialization.Encoding.X962, form)


def _write_whole(path: Path, data: bytes, mode: int) -> None:
    """Writes a new file that is there whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    new.replace(path)
