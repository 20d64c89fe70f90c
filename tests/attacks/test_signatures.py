"""Forged, replayed and missing signatures: every one is refused, and nothing changes."""

import base64
import json

import pytest

from mmcl_edge.errors import PackError, SignatureError
from mmcl_edge.packs import read_pack
from mmcl_edge.packs.signing import require_signature, sign_pack
from tests.builders import forge_file, snapshot
from tests.signed import signed_pack, signer


def _change(change):
    def harm(pack):
        file = pack / "signatures.json"
        raw = json.loads(file.read_bytes())
        change(raw)
        file.write_text(json.dumps(raw, ensure_ascii=False))

    return harm


def _flip(text):
    data = bytearray(base64.b64decode(text))
    data[5] ^= 1
    return base64.b64encode(bytes(data)).decode()


def _other_payload(raw):
    payload = json.loads(base64.b64decode(raw["payload"]))
    raw["payload"] = base64.b64encode(json.dumps({**payload, "pack": "0" * 64}).encode()).decode()


def _same_payload_in_other_words(raw):
    payload = json.loads(base64.b64decode(raw["payload"]))
    raw["payload"] = base64.b64encode(json.dumps(payload, indent=1).encode()).decode()


def _replay(pack):
    other = signed_pack(pack.parent / "other", "a", value=7.0)
    (pack / "signatures.json").write_bytes((other / "signatures.json").read_bytes())


def _by_another_key_under_a_trusted_id(raw):
    payload = base64.b64decode(raw["payload"])
    kind = raw["payloadType"].encode()
    signed = signer("mallory").sign(b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)).signature
    raw["signatures"][0]["sig"] = base64.b64encode(bytes.fromhex(signed)).decode()


def _link(pack):
    (pack / "signatures.json").rename(pack.parent / "moved")
    (pack / "signatures.json").symlink_to(pack.parent / "moved")


def _sparse(pack):
    with (pack / "signatures.json").open("wb") as file:
        file.truncate(8 << 20)


def _signature(**fields):
    return _change(lambda raw: raw["signatures"][0].update(fields))


ATTACKS = {
    "unsigned": (lambda pack: (pack / "signatures.json").unlink(), "not signed"),
    "no signatures in the file": (_change(lambda raw: raw.update(signatures=[])), "At least 1"),
    "changed signature": (
        _change(lambda raw: raw["signatures"][0].update(sig=_flip(raw["signatures"][0]["sig"]))),
        "hold",
    ),
    "signature of zeros": (_signature(sig=base64.b64encode(bytes(64)).decode()), "hold"),
    "signature by another key under a trusted id": (_change(_by_another_key_under_a_trusted_id), "hold"),
    "trusted signature under an unknown id": (_signature(keyid="0" * 64), "At least 1"),
    "changed payload": (_change(_other_payload), "another pack"),
    "payload that is not ASCII": (_change(lambda raw: raw.update(payload="é")), "envelope"),
    "payload that is no base64": (_change(lambda raw: raw.update(payload="AAAAA")), "envelope"),
    "payload in other words": (_change(_same_payload_in_other_words), "another pack"),
    "signature of another pack": (_replay, "another pack"),
    "payload of another type": (
        _change(lambda raw: raw.update(payloadType="application/vnd.in-toto+json")),
        "envelope",
    ),
    "further field": (_change(lambda raw: raw.update(note="x")), "envelope"),
    "further field of a signature": (_signature(cert="x"), "envelope"),
    "signature too short": (_signature(sig="AAAA"), "envelope"),
    "one key twice": (_change(lambda raw: raw.update(signatures=raw["signatures"] * 2)), "names one twice"),
    "a thousand signatures": (_change(lambda raw: raw.update(signatures=raw["signatures"] * 200)), "envelope"),
    "not JSON": (lambda pack: (pack / "signatures.json").write_bytes(b"\x80"), "envelope"),
    "nested too deep": (lambda pack: (pack / "signatures.json").write_bytes(b"[" * 60_000), "envelope"),
    "link": (_link, "holds"),
    "folder": (lambda pack: [(pack / "signatures.json").unlink(), (pack / "signatures.json").mkdir()], "holds"),
    "file of 8 MiB": (_sparse, "not read"),
}


@pytest.fixture
def pack(tmp_path):
    return signed_pack(tmp_path, "a")


def _required(pack, *names, threshold=1):
    return require_signature(read_pack(pack), [signer(name).public_key for name in names], threshold=threshold)


@pytest.mark.parametrize(("harm", "words"), ATTACKS.values(), ids=ATTACKS)
def test_refused(pack, harm, words):
    harm(pack)
    before = snapshot(pack)
    with pytest.raises(PackError, match=words):
        _required(pack, "a")
    assert snapshot(pack) == before


def test_the_good_signature_is_accepted(pack):
    assert _required(pack, "a", "b") == {signer("a").public_key.keyid}


def test_wrong_key(pack):
    with pytest.raises(SignatureError, match="0 have"):
        _required(pack, "b")


def test_threshold_not_met(pack):
    with pytest.raises(SignatureError, match="At least 2"):
        _required(pack, "a", "b", threshold=2)


def test_one_key_named_twice_counts_once(pack):
    with pytest.raises(SignatureError, match="At least 2"):
        _required(pack, "a", "a", threshold=2)


def test_no_trusted_key_is_no_trust(pack):
    with pytest.raises(SignatureError, match="0 have"):
        _required(pack)


def test_a_changed_pack_does_not_keep_its_signature(pack):
    forge_file(pack, "eval.json", b'{"accuracy": 1.0}')
    with pytest.raises(SignatureError, match="another pack"):
        _required(pack, "a")


@pytest.mark.parametrize("name", ["signature of another pack", "not JSON", "one key twice"])
def test_signing_refuses_to_build_on_a_forged_file(pack, name):
    ATTACKS[name][0](pack)
    before = snapshot(pack)
    with pytest.raises(SignatureError):
        sign_pack(pack, signer("b"))
    assert snapshot(pack) == before
