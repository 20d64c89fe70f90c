"""Prompt pools against plain loops, prompts between segments, and the learners on small backbones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmcl_edge.errors import InputError
from mmcl_edge.learners.baselines.prompt_encoder import PromptEncoder, sites_of, takes_prompts
from mmcl_edge.learners.baselines.prompt_pools import CodaPool, DualPool, L2pPool, cosine, orthogonal_rows
from mmcl_edge.learners.baselines.prompts import PromptLearner, coda_prompt, dual_prompt, l2p
from mmcl_edge.learners.features import FeatureCache, MemoryFeatures
from mmcl_edge.learners.host import Host
from mmcl_edge.types import PoolSpec
from tests.baselines import small_host
from tests.fakes import TokenBackbone, backbones, preprocess
from tests.learning import CLASSES, experience, part, samples

MAKERS = {"l2p": l2p, "dual-prompt": dual_prompt, "coda-prompt": coda_prompt}
SITES = {"audio_0": 12, "audio_1": 7}
QUERY = 9


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def test_cosine_is_one_for_the_same_direction():
    one, other = rows(3, QUERY), rows(4, QUERY, seed=1)
    found = cosine(one, torch.cat([other, 5 * one]))
    wanted = [[float(a @ b / a.norm() / b.norm()) for b in other] for a in one]
    torch.testing.assert_close(found[:, :4], torch.tensor(wanted))
    torch.testing.assert_close(found[:, 4:].diagonal(), torch.ones(3))


def test_l2p_takes_the_prompts_of_the_most_similar_keys():
    pool, query = L2pPool(SITES, QUERY, generator=seeded(), size=6, length=2, top=3), rows(4, QUERY)
    pool.requires_grad_(False)
    found = pool.select(query, training=False)
    assert {site: tuple(value.shape) for site, value in found.items()} == {"audio_0": (4, 6, 12), "audio_1": (4, 6, 7)}
    total = 0.0
    for number, one in enumerate(query):
        ranked = sorted(range(6), key=lambda k: -float(torch.cosine_similarity(one, pool.keys[k], dim=0)))[:3]
        for site, tokens in found.items():
            assert torch.equal(tokens[number], torch.cat([pool.prompts[site][k] for k in ranked]))
        total += sum(float(torch.cosine_similarity(one, pool.keys[k], dim=0)) for k in ranked) / 4
    assert float(pool.attraction(query)) == pytest.approx(total, rel=1e-5)


def test_l2p_changes_only_the_prompts_that_were_chosen():
    pool, query = L2pPool(SITES, QUERY, generator=seeded(), size=6, length=2, top=3), rows(1, QUERY)
    pool.select(query, training=True)["audio_0"].sum().backward()
    chosen = set(cosine(query, pool.keys).topk(3).indices[0].tolist())
    touched = {k for k in range(6) if bool(pool.prompts["audio_0"].grad[k].any())}
    assert touched == chosen


def dual_pool(experiences: int = 3) -> DualPool:
    pool = DualPool({"audio_0": 12}, {"audio_1": 7}, QUERY, generator=seeded(), length=2)
    for number in range(experiences):
        pool.grow(seeded(number))
    return pool


def test_dual_prompt_trains_the_last_expert_and_selects_by_key_afterwards():
    pool = dual_pool()
    query = torch.stack([pool.keys[1], 2 * pool.keys[0], pool.keys[2]]).detach() + 0.01
    training, asked = (pool.select(query, training=flag) for flag in (True, False))
    for number, expert in enumerate((1, 0, 2)):
        assert torch.equal(training["audio_1"][number], pool.experts[2]["audio_1"])
        assert torch.equal(asked["audio_1"][number], pool.experts[expert]["audio_1"])
        assert torch.equal(asked["audio_0"][number], pool.general["audio_0"])
    wanted = torch.cosine_similarity(query, pool.keys[2][None], dim=1).mean()
    torch.testing.assert_close(pool.attraction(query), wanted)


def test_dual_prompt_rests_the_experts_of_earlier_experiences():
    names = {name for name, value in dual_pool().named_parameters() if value.requires_grad}
    assert names == {"general.audio_0", "experts.2.audio_1", "keys.2"}


def coda_pool(experiences: int = 2, **settings: int) -> CodaPool:
    pool = CodaPool(SITES, QUERY, components=3, length=2, **settings)
    for number in range(experiences):
        pool.grow(seeded(number))
    return pool


def test_coda_prompt_is_a_sum_weighted_by_attended_cosines():
    pool, query = coda_pool(), rows(4, QUERY)
    found = pool.select(query, training=False)
    for site, width in SITES.items():
        prompts, keys, attention = (pool.part(site, name) for name in ("prompt", "key", "attention"))
        assert prompts.shape == (6, 2, width)
        for number, one in enumerate(query):
            wanted = torch.zeros(2, width)
            for k in range(6):
                wanted += torch.cosine_similarity(one * attention[k], keys[k], dim=0) * prompts[k]
            torch.testing.assert_close(found[site][number], wanted)


def test_coda_prompt_starts_each_slice_orthogonal_to_all_before():
    pool = coda_pool(experiences=1)
    with torch.no_grad():
        for value in pool.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=seeded(5)))  # training moved the first slice
    pool.grow(seeded(1))
    for name in ("prompt", "key", "attention"):
        values = pool.part("audio_0", name).flatten(1)
        products = values[3:] @ values.T
        torch.testing.assert_close(products[:, 3:], torch.eye(3), rtol=0, atol=1e-5)
        torch.testing.assert_close(products[:, :3], torch.zeros(3, 3), rtol=0, atol=1e-5)


def test_coda_prompt_trains_its_last_slice_alone():
    pool = coda_pool()
    before = {name: value.clone() for name, value in pool.slices[0].items()}
    pool.select(rows(4, QUERY), training=True)["audio_0"].sum().backward()
    assert all(value.grad is None for value in pool.slices[0].parameters())
    assert all(torch.equal(value, before[name]) for name, value in pool.slices[0].items())
    assert bool(pool.slices[1]["audio_0_key"].grad.any())


@pytest.mark.parametrize(("count", "old", "width"), [(3, 0, 8), (3, 5, 8), (3, 6, 8), (10, 0, 8)])
def test_rows_are_orthogonal_as_far_as_their_width_allows(count: int, old: int, width: int):
    before = rows(old, width, seed=3)
    found = orthogonal_rows(count, before, generator=seeded())
    torch.testing.assert_close(found.norm(dim=1), torch.ones(count))
    if count <= width:
        torch.testing.assert_close(found @ found.T, torch.eye(count), rtol=0, atol=1e-5)
    if count + old <= width:
        torch.testing.assert_close(found @ before.T, torch.zeros(count, old), rtol=0, atol=1e-5)


def test_only_backbones_of_a_free_number_of_tokens_take_prompts():
    assert {name: takes_prompts(one) for name, one in backbones().items()} == {"audio": True, "frames": False}
    led = TokenBackbone()
    led.pool = PoolSpec(kind="prefix", prefix_tokens=1)
    assert not takes_prompts(led), "what comes first would be pooled"
    assert sites_of(backbones(), [0, 2, 3]) == {"audio_0": 12, "audio_2": 12}
    with pytest.raises(InputError, match="number is free"):
        sites_of({"frames": backbones()["frames"]}, [0])


class Summing(TokenBackbone):
    """Every token sees all others: adds the mean of the sequence."""

    def segment(self, index: int, x: Tensor) -> Tensor:
        return super().segment(index, x) + x.mean(dim=1, keepdim=True)


def encoder(*, all_blocks: bool = True) -> PromptEncoder:
    towers = {"audio": Summing(), "frames": backbones()["frames"]}
    pool = DualPool({"audio_0": 12}, {"audio_1": 12}, 22, generator=seeded(), length=2)
    pool.grow(seeded())
    return PromptEncoder(towers, pool, all_blocks=all_blocks)


def encode(one: PromptEncoder, *samples_) -> dict[str, Tensor]:
    kept = one.prepare([preprocess(sample) for sample in samples_])
    return one(one.collate(kept)).pooled


def test_prompts_enter_before_their_segment_and_take_the_place_of_the_last():
    one, sample = encoder(), samples("ant", 1, seed=1)[0]
    tower, item = one.backbones["audio"], preprocess(sample)["audio"]
    general, expert = one.pool.general["audio_0"][None], one.pool.experts[0]["audio_1"][None]
    x = torch.cat([general, tower.stem(item.values)], dim=1)
    means = [torch.nn.functional.layer_norm(x, (12,))[:, : 2 + item.tokens].mean(dim=1)]
    x = torch.cat([expert, tower.segment(0, x)[:, 2:]], dim=1)
    means.append(torch.nn.functional.layer_norm(x, (12,))[:, : 2 + item.tokens].mean(dim=1))
    x = tower.segment(1, x)
    means.append(torch.nn.functional.layer_norm(x, (12,))[:, : 2 + item.tokens].mean(dim=1))
    pooled = tower.segment(2, x)[:, : 2 + item.tokens].mean(dim=1)
    wanted = torch.cat([torch.nn.functional.layer_norm(pooled, (12,)), *means], dim=1)
    torch.testing.assert_close(encode(one, sample)["audio"], wanted, rtol=1e-4, atol=1e-4)


def test_company_of_other_lengths_changes_nothing():
    one, pair = encoder(), samples("ant", 2, seed=1)
    sound = samples("bee", 1, seed=1, kind="sound")[0]
    together = encode(one, *pair, sound)
    for number, sample in enumerate([*pair, sound]):
        alone = encode(one, sample)
        torch.testing.assert_close(alone["audio"][0], together["audio"][number], rtol=1e-4, atol=1e-4)


def test_the_query_is_frozen_and_shows_what_is_there():
    one, pair, sound = encoder(), samples("ant", 1, seed=1), samples("ant", 1, seed=1, kind="sound")
    batch = one.collate(one.prepare([preprocess(sample) for sample in [*pair, *sound]]))
    query = one.query(batch)
    torch.testing.assert_close(query[:, :12].norm(dim=1), torch.ones(2))
    assert torch.equal(query[0, :12], query[1, :12])
    assert not bool(query[1, 12:].any())
    hidden = one.hide(batch, {"audio": torch.tensor([True, False]), "frames": torch.tensor([False, False])})
    assert not bool(one.query(hidden)[0, :12].any())
    assert torch.equal(one.query(hidden)[1], query[1])


def learner(make, *, epochs: int = 3, **adapter) -> PromptLearner:
    return make(small_host(epochs=epochs, **adapter))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_training_masks_the_classes_of_other_experiences(make):
    one = learner(make)
    one.observe(part(0))
    before = one.model.head.weight.detach().clone()
    run = one.begin(part(1))
    run.train_epoch()
    gradient = one.model.head.weight.grad
    assert not bool(gradient[:2].any())
    assert bool(gradient[2:].any(dim=1).all())
    turned = torch.cosine_similarity(one.model.head.weight[:2], before)
    torch.testing.assert_close(turned.detach(), torch.ones(2))  # decay may shorten a row, which changes no cosine


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_it_learns_the_classes_of_each_experience(make):
    one = learner(make, epochs=20)
    for step in range(2):
        one.observe(part(step))
        tested = part(step).test
        best = one.predict(tested)[:, 2 * step :].argmax(dim=1).tolist()
        right = [one.labels[2 * step + i] == sample.label for i, sample in zip(best, tested, strict=True)]
        assert sum(right) / len(right) >= 0.75


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_prompts_learn(make):
    one = learner(make)
    run = one.begin(part(0))
    before = {name: value.detach().clone() for name, value in one.pool.named_parameters()}
    run.train_epoch()
    moved = {name for name, value in one.pool.named_parameters() if not torch.equal(value, before[name])}
    assert any("prompt" in name or "general" in name for name in moved)
    assert any("key" in name for name in moved)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_another_one_goes_on_from_the_state(make):
    one, again = learner(make), learner(make)
    one.observe(part(0))
    again.load_state(one.state())
    for each in (one, again):
        each.observe(part(1))
    found, wanted = again.state_dict(), one.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert again.trainable_parameters == one.trainable_parameters == sum(v.numel() for v in wanted.values())
    assert one.memory_bytes == 0


def test_the_frozen_part_runs_once_a_sample(monkeypatch: pytest.MonkeyPatch):
    base = small_host()
    host = Host(base.backbones, base.config, base.preprocess, 0, FeatureCache(MemoryFeatures()))
    one, calls = l2p(host), []
    prepare = one.encoder.prepare
    monkeypatch.setattr(one.encoder, "prepare", lambda items: calls.append(1) or prepare(items))
    one.observe(experience(*CLASSES))
    one.predict(experience(*CLASSES).train)
    assert len(calls) == len(experience(*CLASSES).train)
