"""Signed envelopes (DSSE, github.com/secure-systems-lab/dsse) around one JSON document, with an EC key."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from dentsight_pipeline.errors import ReleaseError

PAYLOAD = "application/vnd.in-toto+json"


def signed(statement: bytes, private_key: Path) -> bytes:
    """A document in an envelope that is signed with an EC key.

    Raises:
        ReleaseError: The key cannot be used.
    """
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(private_key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ReleaseError(f"{private_key} cannot sign: {error}. Give an unencrypted EC key in PEM form.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ReleaseError(f"{private_key} is no EC key. Give an unencrypted EC key in PEM form.")
    signature = key.sign(_encoded(statement), ec.ECDSA(hashes.SHA256()))
    texts = {"payload": base64.b64encode(statement).decode(), "payloadType": PAYLOAD}
    return json.dumps({**texts, "signatures": [{"sig": base64.b64encode(signature).decode()}]}).encode() + b"\n"


def unsealed(envelope: bytes, public_key: bytes) -> bytes | None:
    """The document in an envelope; None where it is not signed with the key, PEM."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(public_key)
        document = json.loads(envelope)
        statement = base64.b64decode(document["payload"], validate=True)
        signature = base64.b64decode(document["signatures"][0]["sig"], validate=True)
        if not isinstance(key, ec.EllipticCurvePublicKey) or document["payloadType"] != PAYLOAD:
            return None
        key.verify(signature, _encoded(statement), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, KeyError, TypeError, IndexError):
        return None
    return statement


def _encoded(statement: bytes) -> bytes:
    """What DSSE signs: type and body with their lengths."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD), PAYLOAD.encode(), len(statement), statement)
