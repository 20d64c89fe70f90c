"""Pseudo-modality replay: Gaussians by code, and decoders; neither keeps a sample."""

from __future__ import annotations

import torch

from mmcl_edge.replay.pseudo import CodeGaussians, Generator


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


VECTORS = torch.tensor([[0.0, 0.0], [2.0, 4.0], [10.0, 10.0]])
INDEX = torch.tensor([0, 0, 2])


def test_they_are_mean_and_variance_of_what_each_code_tells():
    fitted = CodeGaussians.fitted(VECTORS, INDEX, 4)
    assert fitted.counts.tolist() == [2, 0, 1, 0]
    assert fitted.means[0].tolist() == [1, 2]
    assert fitted.variances[0].tolist() == [1, 4]
    torch.testing.assert_close(fitted.means[1], VECTORS.mean(dim=0))
    torch.testing.assert_close(fitted.variances[1], VECTORS.var(dim=0, correction=0))
    assert float(fitted.variances[2].min()) > 0, "a single vector has the spread within the other codes"


def test_draws_follow_them_and_the_generator():
    fitted = CodeGaussians.fitted(VECTORS, INDEX, 4)
    many = fitted.draw(torch.zeros(4000, 1, dtype=torch.int64), generator())
    assert many.shape == (4000, 1, 2)
    torch.testing.assert_close(many.mean(dim=(0, 1)), fitted.means[0], rtol=0.05, atol=0.1)
    torch.testing.assert_close(many.var(dim=0)[0], fitted.variances[0], rtol=0.1, atol=0.1)
    assert torch.equal(fitted.draw(INDEX, generator(1)), fitted.draw(INDEX, generator(1)))
    assert not torch.equal(fitted.draw(INDEX, generator(1)), fitted.draw(INDEX, generator(2)))


def test_a_code_that_came_later_is_told_by_all_vectors_together():
    vectors = torch.cat([VECTORS, VECTORS + 1])
    fitted = CodeGaussians.fitted(vectors, torch.tensor([0, 0, 2, 0, 0, 2]), 4)
    many = fitted.draw(torch.full((4000,), 7), generator())
    torch.testing.assert_close(many.mean(dim=0), vectors.mean(dim=0), rtol=0.1, atol=0.2)
    torch.testing.assert_close(many.var(dim=0), vectors.var(dim=0, correction=0), rtol=0.1, atol=0.2)


def test_joined_codes_have_the_mean_and_variance_of_both():
    moved = CodeGaussians.fitted(VECTORS, torch.tensor([0, 1, 2]), 3).moved(torch.tensor([0, 0, 1]), 2)
    assert moved.counts.tolist() == [2, 1]
    whole = CodeGaussians.fitted(VECTORS, torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(moved.means, whole.means)
    torch.testing.assert_close(moved.variances[0], whole.variances[0], rtol=1e-4, atol=1e-4)


def test_codes_that_came_in_the_stage_that_ends_are_told_by_the_pool():
    vectors = torch.cat([VECTORS, VECTORS + 1])
    moved = CodeGaussians.fitted(vectors, torch.tensor([0, 0, 1, 0, 0, 1]), 2).moved(torch.tensor([0, 1, 2, 3]), 4)
    assert moved.counts.tolist() == [4, 2, 0, 0]
    torch.testing.assert_close(moved.means[3], vectors.mean(dim=0))
    torch.testing.assert_close(moved.variances[3], vectors.var(dim=0, correction=0), rtol=1e-4, atol=1e-4)


def test_what_it_takes_is_two_vectors_and_a_count_for_each_code():
    fitted = CodeGaussians.fitted(torch.randn(50, 8, generator=generator()), torch.arange(50) % 10, 10)
    assert fitted.size_bytes == 4 * 10 * (2 * 8 + 1)


def test_a_generator_decodes_codes_with_a_drawn_specific_part():
    asked: list[torch.Tensor] = []

    def decode(codes: torch.Tensor, specific: torch.Tensor) -> torch.Tensor:
        asked.append(specific)
        return torch.cat([codes.flatten(1), specific], dim=1)

    codes = torch.tensor([[1.0], [2.0]])
    made = Generator(decode, lambda x: x[:, :2, None] * 10, codes, torch.full((3,), 5.0), torch.full((3,), 0.1))
    drawn = made.draw(torch.tensor([[0, 1], [1, 1]]), generator())
    assert drawn[:, :, 0].tolist() == [[10, 20], [20, 20]]
    assert not torch.equal(asked[0][0], asked[0][1]), "the specific part differs from sample to sample"
    assert float((asked[0] - 5).abs().max()) < 1
