"""The field ``confidence`` of ``pack.json``: what is refused, and what survives a new calibration."""

import dataclasses

import pytest
import torch

from mmcl_edge.errors import PackError
from mmcl_edge.learners.confidence import Calibrated
from mmcl_edge.learners.familiarity import Familiarity
from mmcl_edge.learners.persistence import familiarity_of, recalibrated
from mmcl_edge.packs import Confidence, UnknownRule, read_pack, write_pack
from tests.builders import forge_manifest, pack_contents
from tests.golden.make_pack_v1_confidence import calibrated_contents


@pytest.fixture
def pack(tmp_path):
    return read_pack(tmp_path / write_pack(tmp_path, calibrated_contents()))


FORGED = {
    "an order": {"scores": [0.5, 0.25]},
    "a score above 1": {"scores": [0.5, 1.5]},
    "no scores": {"scores": []},
    "no temperature": {"temperature": 0},
    "an infinite temperature": {"temperature": 1e999},
    "an unknown field": {"colour": "red"},
    "a kind": {"unknown": {"kind": "guess"}},
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_forged_figures_are_refused(pack, change):
    def forge(manifest):
        for name, value in change.items():
            old = manifest["confidence"].get(name)
            manifest["confidence"][name] = {**old, **value} if isinstance(value, dict) else value

    if change == {"temperature": 1e999}:
        text = (pack.path / "pack.json").read_text().replace('"temperature":0.5', '"temperature":1e999')
        (pack.path / "pack.json").write_text(text)
    else:
        forge_manifest(pack.path, forge)
    with pytest.raises(PackError):
        read_pack(pack.path)


def test_statistics_of_another_number_of_classes_are_refused(tmp_path):
    contents = calibrated_contents()
    tensors = {**contents.tensors, "confidence.means": torch.zeros(2, 256)}
    written = write_pack(tmp_path, dataclasses.replace(contents, tensors=tensors))
    with pytest.raises(PackError, match="confidence tensors should have the shapes"):
        familiarity_of(read_pack(tmp_path / written))


def test_a_new_calibration_keeps_the_model(pack, tmp_path):
    rule = UnknownRule(kind="logit", logit_weight=1.0, offset=0.0, threshold=-1.0, false_alarm_rate=0.2)
    confidence = Confidence(temperature=2.0, unknown=rule, scores=(0.5,), classes=1, ece_before=0.0, ece_after=0.0)
    child = read_pack(tmp_path / write_pack(tmp_path, recalibrated(pack, Calibrated(confidence, None))))
    assert child.manifest.confidence == confidence
    assert [(one.digest, one.method) for one in child.manifest.parents] == [(pack.digest, "calibrate")]
    assert child.manifest.version == pack.manifest.version + 1
    changed = {"confidence", "parents", "version", "files"}
    assert child.manifest.model_dump(exclude=changed) == pack.manifest.model_dump(exclude=changed)
    assert (child.config, child.evaluation, child.module) == (pack.config, pack.evaluation, pack.module)
    model = {name: value for name, value in pack.tensors().items() if not name.startswith("confidence.")}
    found = child.tensors()
    assert found.keys() == model.keys()
    assert all(torch.equal(found[name], value) for name, value in model.items())


def test_the_card_tells_the_figures(tmp_path):
    assert "## Confidence" not in (tmp_path / write_pack(tmp_path, pack_contents()) / "README.md").read_text()
    card = (tmp_path / write_pack(tmp_path, calibrated_contents()) / "README.md").read_text()
    assert "| temperature | 0.5 |" in card
    assert "| expected calibration error after | 0.03125 |" in card


def test_statistics_are_small():
    joint, target = torch.randn(200, 256, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 20
    tensors = Familiarity.fit(joint, target, 20).tensors()
    assert sum(value.numel() * value.element_size() for value in tensors.values()) < 64 << 10
