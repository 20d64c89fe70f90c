"""AV-CIL's losses and attention against plain loops, and the learner on small backbones."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from mmcl_edge.errors import InputError
from mmcl_edge.learners.baselines import av_cil_losses as losses
from mmcl_edge.learners.baselines.av_cil import AvCilLearner
from mmcl_edge.learners.baselines.av_cil_model import AvEncoder, AvFusion
from mmcl_edge.types import AUDIO, FRAMES
from tests.baselines import small_host
from tests.fakes import backbones, preprocess
from tests.learning import CLASSES, accuracy, experience, samples

LABELS = torch.tensor([0, 3, 4, 1, 4])
FIRST, SECOND = experience(*CLASSES[:2]), experience(*CLASSES[2:])


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def log_softmax(values: list[float], index: int) -> float:
    return values[index] - math.log(sum(math.exp(value) for value in values))


def test_cross_entropy_keeps_old_and_new_columns_apart():
    logits = rows(5, 5)
    wanted = 0.0
    for row, label in zip(logits.tolist(), LABELS.tolist(), strict=True):
        wanted -= log_softmax(row[3:], label - 3) if label >= 3 else log_softmax(row[:3], label)
    assert float(losses.separated_cross_entropy(logits, LABELS, old=3)) == pytest.approx(wanted / 5, rel=1e-5)


@pytest.mark.parametrize("old", [0, 5])
def test_cross_entropy_of_only_new_or_only_old_classes_is_the_plain_one(old: int):
    logits = rows(5, 5)
    plain = torch.nn.functional.cross_entropy(logits, LABELS)
    torch.testing.assert_close(losses.separated_cross_entropy(logits, LABELS, old=old), plain)


def test_distillation_stays_within_the_classes_of_each_experience():
    own, teacher = rows(4, 7), rows(4, 5, seed=1)
    wanted = 0.0
    for row, soft in zip((own / 2).tolist(), (teacher / 2).tolist(), strict=True):
        for start, end in ((0, 2), (2, 5)):
            for index in range(end - start):
                log_p = log_softmax(soft[start:end], index)
                wanted += 4 * math.exp(log_p) * (log_p - log_softmax(row[start:end], index)) / 4
    found = losses.distillation_by_task(own, teacher, sizes=[2, 3], temperature=2.0)
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    assert float(losses.distillation_by_task(teacher, teacher, sizes=[2, 3], temperature=2.0)) == pytest.approx(
        0, abs=1e-6
    )


def similarities(sound: Tensor, sight: Tensor) -> list[list[float]]:
    return [[float(torch.cosine_similarity(one, other, dim=0)) / 0.05 for other in sight] for one in sound]


def test_instance_contrast_is_a_plain_loop():
    sound, sight = rows(5, 6), rows(5, 6, seed=1)
    wanted = -sum(log_softmax(row, i) for i, row in enumerate(similarities(sound, sight))) / 5
    assert float(losses.instance_contrast(3 * sound, sight, temperature=0.05)) == pytest.approx(wanted, rel=1e-4)


def test_class_contrast_averages_over_the_positives_of_each_row():
    sound, sight = rows(5, 6), rows(5, 6, seed=1)
    wanted = 0.0
    for row, label in zip(similarities(sound, sight), LABELS.tolist(), strict=True):
        positives = [j for j, other in enumerate(LABELS.tolist()) if other == label]
        wanted -= sum(log_softmax(row, j) for j in positives) / len(positives) / 5
    found = losses.class_contrast(sound, sight, LABELS, temperature=0.05)
    assert float(found) == pytest.approx(wanted, rel=1e-4)
    apart = losses.class_contrast(sound, sight, torch.arange(5), temperature=0.05)
    torch.testing.assert_close(apart, losses.instance_contrast(sound, sight, temperature=0.05))


def test_attention_distillation_is_a_sum_of_divergences_a_sample():
    own, teacher = rows(2, 3, 4, 5).softmax(dim=2), rows(2, 3, 4, 5, seed=1).softmax(dim=2)
    wanted = 0.0
    for b in range(2):
        for t in range(3):
            for d in range(5):
                wanted += sum(
                    float(q * (q / p).log()) for p, q in zip(own[b, t, :, d], teacher[b, t, :, d], strict=True)
                )
    assert float(losses.attention_distillation(own, teacher)) == pytest.approx(wanted / 2, rel=1e-4)
    masked = torch.tensor([[[[0.0], [1.0]]]])
    assert float(losses.attention_distillation(masked, masked)) == 0.0


def fusion() -> AvFusion:
    torch.manual_seed(0)
    return AvFusion({AUDIO: 4, FRAMES: 6}, joint_dim=3)


def test_attention_is_the_papers_loop_over_frames_positions_and_channels():
    block = fusion()
    sound, sight = rows(2, 4), rows(2, 3, 5, 6, seed=1)
    present = {AUDIO: torch.ones(2, dtype=torch.bool), FRAMES: torch.ones(2, dtype=torch.bool)}
    spatial, temporal = block.attention({AUDIO: sound, FRAMES: sight}, present)
    assert spatial.shape == (2, 3, 5, 6)
    assert temporal.shape == (2, 3, 6)
    guide, look = torch.tanh(block.guide(sound)), torch.tanh(block.look(sight))
    for b in range(2):
        for d in range(6):
            weights = [(look[b, t, :, d] * guide[b, d]).softmax(dim=0) for t in range(3)]
            scores = torch.stack([(w * look[b, t, :, d]).sum() * guide[b, d] for t, w in enumerate(weights)])
            torch.testing.assert_close(spatial[b, :, :, d], torch.stack(weights))
            torch.testing.assert_close(temporal[b, :, d], scores.softmax(dim=0))
    z, joint = block({AUDIO: sound, FRAMES: sight}, present)
    pooled = (temporal * (spatial * sight).sum(dim=2)).sum(dim=1)
    torch.testing.assert_close(
        joint, torch.relu(block.project[AUDIO](sound)) + torch.relu(block.project[FRAMES](pooled))
    )
    torch.testing.assert_close(joint, z[AUDIO] + z[FRAMES])


def test_what_a_sample_lacks_reaches_nothing():
    block = fusion()
    sound, sight = rows(2, 4), rows(2, 3, 5, 6, seed=1)
    sight[0, 2] = 0  # a frame that the sample does not have
    present = {AUDIO: torch.tensor([True, False]), FRAMES: torch.tensor([True, True])}
    spatial, temporal = block.attention({AUDIO: sound, FRAMES: sight}, present)
    assert not bool(temporal[0, 2].any())
    torch.testing.assert_close(spatial[1], torch.full((3, 5, 6), 0.2))
    z, joint = block({AUDIO: sound, FRAMES: sight}, present)
    assert torch.equal(joint[1], z[FRAMES][1])
    alone, _ = block({FRAMES: sight[1:]}, {FRAMES: torch.tensor([True])})
    torch.testing.assert_close(alone[FRAMES][0], z[FRAMES][1])


def learner(*experiences, **settings) -> AvCilLearner:
    found = AvCilLearner(small_host(**settings))
    for one in experiences:
        found.observe(one)
    return found


def test_it_keeps_sound_as_a_vector_and_pictures_by_position():
    encoder = AvEncoder(backbones(), grid=4)
    both, sound = (encoder.prepare([preprocess(samples("ant", 1, seed=1, kind=k)[0])])[0] for k in ("pair", "sound"))
    assert {name: tuple(value.shape) for name, value in both.items()} == {
        "audio.output": (12,),
        "frames.tokens": (1, 16, 10),
    }
    batch = encoder.collate([both, sound])
    assert batch.present[FRAMES].tolist() == [True, False]
    assert not bool(batch.features[FRAMES][1].any())


def test_its_losses_appear_with_the_second_experience():
    one = learner(epochs=20)
    run = one.begin(FIRST)
    assert set(run.train_epoch()) == {"classification", "total"}
    for _ in range(19):
        run.train_epoch()
    one.finish(run)
    found = one.begin(SECOND).train_epoch()
    names = {"classification", "distillation", "instance contrast", "class contrast", "total"}
    assert set(found) == names | {"spatial attention", "temporal attention"}
    assert found["spatial attention"] > 0
    assert found["temporal attention"] == pytest.approx(0, abs=1e-6), "one picture a sample"


def test_old_and_new_classes_are_kept_apart_from_the_third_experience_on():
    one = learner(experience("ant"), experience("bee"))
    run = one.begin(SECOND)
    index = torch.arange(run.current)
    batch = one.model.encoder.collate([run.prepared[int(i)] for i in index])
    found = one.losses(run, one.model(batch), index)["classification"]
    torch.testing.assert_close(found, plain_cross_entropy(one.model(batch).logits[:, 2:], run.labels[index] - 2))


def plain_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.log_softmax(dim=1)[torch.arange(len(labels)), labels].mean()


def test_it_learns_and_remembers():
    taught = learner(FIRST, SECOND, epochs=20)
    assert accuracy(taught, experience(*CLASSES).test) >= 0.75


def test_its_exemplars_are_the_same_number_of_each_class():
    taught = learner(FIRST, SECOND)
    assert Counter(sample.label for sample in taught.buffer.exemplars) == dict.fromkeys(CLASSES, 1), "6 over 4 classes"


@pytest.mark.parametrize("kind", ["sound", "picture"])
def test_it_learns_from_one_modality(kind: str):
    taught = learner(experience(*CLASSES[:2], kind=kind), experience(*CLASSES[2:], kind=kind), epochs=20)
    assert accuracy(taught, experience(*CLASSES, kind=kind).test) >= 0.5


def test_another_one_goes_on_from_the_state():
    one, again = learner(FIRST), learner()
    again.load_state(one.state())
    for each in (one, again):
        each.observe(SECOND)
    assert again.sizes == [2, 2]
    assert all(torch.equal(again.state_dict()[name], value) for name, value in one.state_dict().items())


def test_a_bundle_without_pictures_is_refused():
    with pytest.raises(InputError, match="needs backbones"):
        AvEncoder({AUDIO: backbones()[AUDIO]}, grid=4)


def test_a_sample_without_sound_and_pictures_is_refused():
    with pytest.raises(InputError, match="has neither"):
        AvEncoder(backbones(), grid=4).prepare([{}])
