"""Signed and reduced packs, archives and deltas of every schema open for ever.

A failure here is a file in the field that the release could not open, or would refuse to trust.
"""

import pytest
import torch

from mmcl_edge.packs import read_pack
from mmcl_edge.packs.archive import open_archive, read_archive, write_archive
from mmcl_edge.packs.keys import read_public_key
from mmcl_edge.packs.precision import precision_of, reduced
from mmcl_edge.packs.signing import require_signature
from tests.builders import snapshot
from tests.golden.make_archive_v1 import (
    ARCHIVE,
    DELTA,
    DELTA_INT4,
    FP16,
    INT8,
    KEY,
    SIGNED,
    child_contents,
    signed_contents,
)

DIGESTS = {
    SIGNED: "9a218ac21335f67a423d467e4dcbacec20206927724888693530cb6a9a4a9513",
    FP16: "2cbc62cefedcaca5773ecf55000fa08843f9803db2e00d50bb3650fa23a1b256",
    INT8: "ad1ad2b000c2b438728a1986945aea46574219efde510acb05e3ccfde657737b",
}
DIGESTS_OF_DELTAS = {
    DELTA: "2c458d0651765392a22562664880b94b0f39752ecbd7639a52b93b9c9dc4e8b3",
    DELTA_INT4: "d0de781a47722e1b20cf212cff03e61c8545757f904e4219b021ef8be74dcf6e",
}


@pytest.mark.parametrize(("folder", "digest"), DIGESTS.items(), ids=lambda value: getattr(value, "name", ""))
def test_packs_load(folder, digest):
    pack = read_pack(folder, expected_digest=digest)
    assert pack.manifest.label_names == ("dog", "cät", "ドア")
    assert set(pack.tensors()) >= {"fusion.weight", "head.scale", "dtypes.bfloat16"}


def test_the_signature_holds():
    key = read_public_key(KEY)
    assert require_signature(read_pack(SIGNED), [key.key]) == {key.keyid}


@pytest.mark.parametrize(("folder", "precision", "error"), [(FP16, "fp16", 2**-8), (INT8, "int8", 9 / 127 / 2)])
def test_reduced_weights_keep_their_values(folder, precision, error):
    pack, expected = read_pack(folder), signed_contents().tensors
    assert precision_of(pack.entries) == precision
    found = pack.tensors()
    assert (found["fusion.weight"] - expected["fusion.weight"]).abs().max() <= error
    exact = {name for name, value in expected.items() if not name.startswith("confidence.") and value.numel() < 64}
    for name in exact:
        assert torch.equal(found[name], expected[name]), name


def test_the_values_of_int8_stay_to_the_bit():
    """What a device computes from the stored bytes is part of the format."""
    stored, found = read_pack(INT8).stored_tensors(), read_pack(INT8).tensors()["fusion.weight"]
    assert torch.equal(stored["fusion.weight:int8"][0, :3], torch.tensor([-127, -123, -120], dtype=torch.int8))
    assert torch.equal(found, stored["fusion.weight:int8"].float() * stored["fusion.weight:scale"])


def test_the_archive_opens(tmp_path):
    digest = open_archive(ARCHIVE, tmp_path, keys=[read_public_key(KEY).key], expected_digest=DIGESTS[SIGNED])
    assert snapshot(tmp_path / digest) == snapshot(SIGNED)


@pytest.mark.parametrize(("file", "digest"), DIGESTS_OF_DELTAS.items(), ids=lambda value: getattr(value, "name", ""))
def test_the_deltas_open(tmp_path, file, digest):
    assert read_archive(file).delta.parent == DIGESTS[SIGNED]
    assert open_archive(file, tmp_path, parent_of=lambda digest: SIGNED, expected_digest=digest) == digest
    found, expected = read_pack(tmp_path / digest).tensors(), child_contents(SIGNED).tensors
    change = (expected["fusion.weight"] - signed_contents().tensors["fusion.weight"]).abs().max()
    assert (found["fusion.weight"] - expected["fusion.weight"]).abs().max() <= change / 7 + 9 / 127 / 2
    assert torch.equal(found["dtypes.bfloat16"], expected["dtypes.bfloat16"])


def test_one_delta_tells_steps():
    assert read_archive(DELTA_INT4).delta.in_steps == ("fusion.weight",)
    assert read_archive(DELTA).delta.in_steps == ()


def test_an_archive_has_the_same_bytes_today(tmp_path):
    """Equal content gives equal bytes, also after years: else two admins would publish two files for one pack."""
    write_archive(SIGNED, tmp_path / "archive")
    assert (tmp_path / "archive").read_bytes() == ARCHIVE.read_bytes()
    for file in DIGESTS_OF_DELTAS:
        child = tmp_path / open_archive(file, tmp_path, parent_of=lambda digest: SIGNED)
        write_archive(child, tmp_path / "delta", parent=SIGNED)
        assert (tmp_path / "delta").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(("folder", "precision"), [(FP16, "fp16"), (INT8, "int8")])
def test_weights_are_rounded_as_ever(folder, precision):
    stored = read_pack(folder).stored_tensors()
    weights = read_pack(SIGNED).tensors()["fusion.weight"]
    for name, value in reduced({"fusion.weight": weights}, precision).items():
        assert torch.equal(value, stored[name]), name
