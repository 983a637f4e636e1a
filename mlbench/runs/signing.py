"""Signatures: which stored values were made by their user, so that they are loaded without a question.

To load a pickle is to run code. So what is kept as one carries, in the record that binds it, an HMAC-SHA256 made with
a key that only its user has. It says "made by us", not "safe": whoever may run steps with the key can sign anything.

::

    signature  =  <key's name>.<subject>.<MAC>
    secret     =  HMAC(key, "mlbench signer 1" NUL subject)         the subject is an execution, or `kernel`
    MAC        =  HMAC(secret, codec NUL digest), its first 32 hexadecimal digits

The digest is that of the manifest, which names the codec and the digest of every part: all of the bytes are meant. The
run and the step are in it by their execution, whose id travels in the signature: a binding that is reused, copied to
another store or read from a record again is as good as where it was made. A worker is given the secret of the one
execution that it runs, never the key.

The record of an end carries the like, as `proof`, for whoever finds it after the one that wrote it is lost::

    proof      =  <key's name>.<execution>.<MAC>
    MAC        =  HMAC(secret, "record" NUL kind NUL id NUL SHA-256 of what it says), its first 32 hexadecimal digits
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from mlbench.core.ids import Digest
from mlbench.core.messages import Signer
from mlbench.core.records import Json

__all__ = [
    "KERNEL",
    "PLAIN",
    "is_proven",
    "is_signed",
    "key_name",
    "needs_signature",
    "proof_of",
    "proven",
    "sign",
    "signer_of",
]

PLAIN: Final = frozenset({"scalar", "ndarray", "sparse", "frame", "arrow", "file", "folder"})
"""The codecs that hold data alone: nothing in them can run code when they are loaded."""

KERNEL: Final = "kernel"
"""The subject of what a kernel stores itself."""

_DIGITS: Final = 32

_ADDED: Final = frozenset({"schema", "record", "id", "time", "proof"})
"""What every record has, and is not of what it says (see `mlbench.core.ports.BlobStore.append`)."""


def needs_signature(codec: str) -> bool:
    """Say whether what a codec keeps can run code when it is loaded.

    Examples
    --------
    >>> [needs_signature(codec) for codec in ("frame", "pickle", "items")]
    [False, True, True]
    """
    return codec not in PLAIN


def key_name(key: bytes) -> str:
    """Return the name by which signatures say with which key they were made; it tells nothing of the key."""
    return sha256(b"mlbench key\0" + key).hexdigest()[:16]


def signer_of(key: bytes, subject: str) -> Signer:
    """Return what signs for one execution."""
    return Signer(key=key_name(key), subject=subject, secret=_secret(key, subject))


def sign(signer: Signer | None, digest: Digest, codec: str) -> str | None:
    """Return the signature of an artifact: none if it needs none, or nobody signs.

    Examples
    --------
    >>> digest = Digest("blake3:12")
    >>> made = sign(signer_of(b"mine", "x3k7"), digest, "pickle")
    >>> is_signed(b"mine", made, digest, "pickle"), is_signed(b"other", made, digest, "pickle")
    (True, False)
    """
    if signer is None or not needs_signature(codec):
        return None
    return f"{signer.key}.{signer.subject}.{_mac(signer.secret, digest, codec)}"


def is_signed(key: bytes, signature: str, digest: Digest, codec: str) -> bool:
    """Say whether a signature of an artifact was made with a key."""
    name, _, rest = signature.partition(".")
    subject, _, mac = rest.rpartition(".")
    if name != key_name(key) or not mac.isascii():
        return False
    return hmac.compare_digest(mac, _mac(_secret(key, subject), digest, codec))


def proof_of(signer: Signer, kind: str, identifier: str, said: bytes) -> str:
    """Return what proves that a record was written by who runs an execution; `said` is all of it, as JSON."""
    about = f"record\0{kind}\0{identifier}\0{sha256(said).hexdigest()}"
    return f"{signer.key}.{signer.subject}.{hmac.digest(signer.secret, about.encode(), 'sha256').hex()[:_DIGITS]}"


def proven(signer: Signer | None, kind: str, identifier: str, record: Json) -> Json:
    """Return a record with its proof; as it is if nobody signs.

    Examples
    --------
    >>> signer = signer_of(b"mine", "x3k7")
    >>> end = proven(signer, "execution", "x3k7", {"state": "succeeded"})
    >>> is_proven([signer], "execution", "x3k7", {"schema": 1, **end})
    True
    >>> is_proven([signer], "execution", "x3k7", {**end, "state": "failed"})
    False
    """
    return record if signer is None else {**record, "proof": proof_of(signer, kind, identifier, _said(record))}


def is_proven(signers: Iterable[Signer], kind: str, identifier: str, record: Json) -> bool:
    """Say whether a record that was found was written by one of these."""
    said, proof = _said(record), str(record.get("proof"))
    return any(proof.isascii() and hmac.compare_digest(proof, proof_of(one, kind, identifier, said)) for one in signers)


def _said(record: Json) -> bytes:
    """Return what a record says as it was written, without what was added then."""
    from mlbench.runs.wire import msgspec, numbers_as_text

    said = {name: value for name, value in record.items() if name not in _ADDED}
    written: bytes = msgspec.json.encode(numbers_as_text(said))
    return written


def _secret(key: bytes, subject: str) -> bytes:
    return hmac.digest(key, b"mlbench signer 1\0" + subject.encode("utf-8", "replace"), "sha256")


def _mac(secret: bytes, digest: Digest, codec: str) -> str:
    return hmac.digest(secret, f"{codec}\0{digest}".encode(), "sha256").hex()[:_DIGITS]
