"""Signatures of packs: who has signed, and what signing leaves alone."""

import base64
import json

import pytest

from mmcl_edge.errors import SignatureError
from mmcl_edge.packs import read_pack
from mmcl_edge.packs.signing import (
    claimed_signers,
    joined,
    require_signature,
    sign_pack,
    signature_bytes,
    signed_payload,
    verified_signers,
    verify_signatures,
)
from mmcl_edge.runtime.install import bring_pack
from tests.builders import snapshot
from tests.signed import signed_pack, signer


def _keys(*names):
    return [signer(name).public_key for name in names]


def _ids(*names):
    return frozenset(key.keyid for key in _keys(*names))


def test_signing_leaves_the_digest_and_the_files(tmp_path):
    pack = signed_pack(tmp_path)
    before = snapshot(pack)
    digest = sign_pack(pack, signer("a"))
    after = snapshot(pack)
    assert digest == pack.name == read_pack(pack).digest
    assert {name: value for name, value in after.items() if name != "signatures.json"} == before


def test_the_payload_names_every_file_and_the_pack(tmp_path):
    pack = read_pack(signed_pack(tmp_path))
    payload = json.loads(signed_payload(pack.manifest, pack.digest))
    assert payload["pack"] == payload["files"]["pack.json"] == pack.digest
    assert set(payload["files"]) == {file.name for file in pack.path.iterdir()}


def test_signers_are_those_who_signed(tmp_path):
    pack = read_pack(signed_pack(tmp_path, "a", "b"))
    assert verified_signers(pack, _keys("a", "b", "c")) == _ids("a", "b")
    assert verified_signers(pack.path, _keys("c")) == frozenset()
    assert set(claimed_signers(pack)) == _ids("a", "b")


def test_signing_twice_and_in_any_order_gives_one_file(tmp_path):
    one, other = signed_pack(tmp_path / "1", "a", "b"), signed_pack(tmp_path / "2", "b", "a", "b")
    assert signature_bytes(one) == signature_bytes(other)


def test_a_pack_without_signatures(tmp_path):
    pack = read_pack(signed_pack(tmp_path))
    assert signature_bytes(pack.path) is None
    assert claimed_signers(pack) == ()
    assert verified_signers(pack, _keys("a")) == frozenset()


@pytest.mark.parametrize(("signed", "threshold", "enough"), [("a", 1, True), ("ab", 2, True), ("a", 2, False)])
def test_a_threshold_counts_trusted_keys(tmp_path, signed, threshold, enough):
    pack = read_pack(signed_pack(tmp_path, *signed))
    if enough:
        assert require_signature(pack, _keys("a", "b"), threshold=threshold) == _ids(*signed)
    else:
        with pytest.raises(SignatureError, match="At least 2 of 2"):
            require_signature(pack, _keys("a", "b"), threshold=threshold)


@pytest.mark.parametrize("threshold", [0, -1, 3])
def test_a_threshold_that_cannot_be_is_refused(tmp_path, threshold):
    pack = read_pack(signed_pack(tmp_path, "a"))
    with pytest.raises(SignatureError, match="threshold should be"):
        require_signature(pack, _keys("a", "b"), threshold=threshold)


def test_joined_files_hold_the_signatures_of_both(tmp_path):
    one, other = signed_pack(tmp_path / "1", "a"), signed_pack(tmp_path / "2", "b")
    pack = read_pack(one)
    both = joined(signature_bytes(one), signature_bytes(other), pack.manifest, pack.digest)
    assert both == signature_bytes(signed_pack(tmp_path / "3", "a", "b"))
    assert joined(None, None, pack.manifest, pack.digest) is None


def _garbage(folder, *keyids):
    """The signature file of the signed pack in ``folder`` with the same garbage under each of these ids alone."""
    raw = json.loads(signature_bytes(folder))
    garbage = base64.b64encode(bytes(64)).decode()
    return json.dumps(raw | {"signatures": [{"keyid": keyid, "sig": garbage} for keyid in keyids]}).encode()


def test_a_verified_signature_takes_the_place_of_garbage_and_garbage_takes_none(tmp_path):
    pack = read_pack(signed_pack(tmp_path, "a"))
    good, (keyid,) = signature_bytes(pack.path), _ids("a")
    bad = _garbage(pack.path, keyid)
    assert joined(bad, good, pack.manifest, pack.digest, verified=_ids("a")) == good
    assert joined(good, bad, pack.manifest, pack.digest) == good
    assert joined(bad, good, pack.manifest, pack.digest) == joined(bad, None, pack.manifest, pack.digest)


def test_a_file_full_of_garbage_still_takes_a_verified_signature_and_stays_readable(tmp_path):
    pack = read_pack(signed_pack(tmp_path, "a"))
    good, crowd = signature_bytes(pack.path), _garbage(pack.path, *(f"{number:064x}" for number in range(64)))
    for there, new, verified in ((crowd, good, _ids("a")), (good, crowd, frozenset())):
        both = joined(there, new, pack.manifest, pack.digest, verified=verified)
        assert verify_signatures(both, pack.manifest, pack.digest, _keys("a")) == _ids("a")
        assert len(json.loads(both)["signatures"]) == 64


def test_signatures_come_along_into_a_workspace(tmp_path):
    pack = read_pack(signed_pack(tmp_path, "a"))
    bring_pack(pack, tmp_path / "brought" / pack.digest)
    assert verified_signers(tmp_path / "brought" / pack.digest, _keys("a")) == _ids("a")
