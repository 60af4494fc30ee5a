"""An envelope opens with the key that signed it, and with nothing else changed."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from dentsight_pipeline.errors import ReleaseError
from dentsight_pipeline.release.envelope import signed, unsealed
from dentsight_pipeline.release.keys import KeyPair, generate_key

TEXT = b'{"said": "so"}'


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """A key of one's own."""
    return generate_key(tmp_path_factory.mktemp("keys"))


def test_an_envelope_has_the_form_of_dsse(keys: KeyPair) -> None:
    """Other tools verify it by type and body with their lengths; that is what was signed."""
    envelope = json.loads(signed(TEXT, keys.private))
    kind = b"application/vnd.in-toto+json"
    key = serialization.load_pem_public_key(keys.public.read_bytes())

    assert set(envelope) == {"payload", "payloadType", "signatures"}
    assert (base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()) == (TEXT, kind)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    key.verify(signature, b"DSSEv1 28 " + kind + b" 14 " + TEXT, ec.ECDSA(hashes.SHA256()))
    assert unsealed(json.dumps(envelope).encode(), keys.public.read_bytes()) == TEXT


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e | {"payload": base64.b64encode(b"other").decode()},
        lambda e: e | {"payloadType": "text/plain"},
        lambda e: e | {"signatures": []},
        lambda e: e | {"payload": "not base64!"},
        lambda e: {"payload": e["payload"]},
        lambda e: [e],
    ],
)
def test_an_envelope_that_was_changed_holds_nothing(keys: KeyPair, change: Callable[[Any], Any]) -> None:
    """None, whatever is wrong: who asks must not have to know how many ways there are."""
    changed = change(json.loads(signed(TEXT, keys.private)))

    assert unsealed(json.dumps(changed).encode(), keys.public.read_bytes()) is None


def test_another_key_or_one_of_another_kind_opens_nothing(keys: KeyPair, tmp_path: Path) -> None:
    """Nor does it sign."""
    other = ed25519.Ed25519PrivateKey.generate()
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    private = other.private_bytes(form[0], serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "other.pem").write_bytes(private)
    envelope = signed(TEXT, keys.private)

    assert unsealed(envelope, generate_key(tmp_path / "mine").public.read_bytes()) is None
    assert unsealed(envelope, other.public_key().public_bytes(*form)) is None
    assert unsealed(envelope, b"no key") is None
    with pytest.raises(ReleaseError, match=r"other\.pem is no EC key"):
        signed(TEXT, tmp_path / "other.pem")
    with pytest.raises(ReleaseError, match=r"none\.pem cannot sign"):
        signed(TEXT, tmp_path / "none.pem")
