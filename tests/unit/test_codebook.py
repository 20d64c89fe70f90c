"""The codebook: moving averages, resets that last, growth, joining, and how usage is told."""

from __future__ import annotations

import pytest
import torch

from mmcl_edge.adapters.codebook import EPSILON, Codebook, kmeans, squared_distances


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(centres: torch.Tensor, count: int, *, seed: int = 0, spread: float = 0.05) -> torch.Tensor:
    noise = torch.randn(len(centres), count, centres.shape[1], generator=generator(seed))
    return (centres[:, None] + spread * noise).flatten(0, 1)


CENTRES = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])


def codebook(codes: torch.Tensor = CENTRES, **changes: float) -> Codebook:
    book = Codebook(2, **{"decay": 0.9, "settled_decay": 0.999, "temperature": 1.0} | changes)
    counts = torch.full((len(codes),), 10.0)
    book.put(codes, counts, codes * counts[:, None], settled=0)
    return book


def test_distances_are_those_of_a_loop():
    z, codes = torch.randn(5, 3, 2, generator=generator()), torch.randn(4, 2, generator=generator(1))
    brute = torch.stack([(z - code).square().sum(dim=-1) for code in codes], dim=-1)
    torch.testing.assert_close(squared_distances(z, codes), brute, rtol=1e-4, atol=1e-5)


def test_kmeans_finds_blobs_and_gives_no_more_centres_than_vectors():
    found = kmeans(blobs(CENTRES, 30), 3, generator=generator(3))
    assert float(squared_distances(CENTRES, found).min(dim=1).values.max()) < 0.01
    assert len(kmeans(CENTRES, 10, generator=generator())) == 3


def test_telling_takes_the_nearest_code_and_gives_a_distribution():
    told = codebook()(torch.tensor([[[0.1, 0.0], [3.9, 0.2]]]))
    assert told.index.tolist() == [[0, 1]]
    assert told.codes.tolist() == [[[0, 0], [4, 0]]]
    assert told.probabilities.shape == (1, 2, 3)
    torch.testing.assert_close(told.probabilities.sum(dim=-1), torch.ones(1, 2))


def test_an_update_is_the_equation_with_both_modalities_voting_half_for_each_other():
    book = codebook()
    a, b = torch.tensor([[0.2, 0.0]]), torch.tensor([[0.0, 0.4]])
    hits = book.update([(a, b), (b, a)])
    assert hits.tolist() == [2, 0, 0]
    assert book.counts.tolist() == pytest.approx([0.9 * 10 + 0.1 * 2, 9, 9])
    sums = 0.1 * torch.tensor([0.2, 0.4])  # (a + b) / 2 from each of the two
    torch.testing.assert_close(book.sums[0], sums)
    total = float(book.counts.sum())
    smoothed = (float(book.counts[0]) + EPSILON) / (total + 3 * EPSILON) * total
    torch.testing.assert_close(book.codes[0], sums / smoothed)


def test_codes_sums_and_counts_stay_consistent_after_everything_that_changes_them():
    book = codebook()
    for step in range(5):
        z = blobs(CENTRES, 4, seed=step)
        book.update([(z, z)])
    book.idle[:] = 9
    book.reset_dead(torch.ones(1, 2), patience=9, generator=generator())
    book.expand(blobs(torch.tensor([[9.0, 9.0]]), 20), 2, cap=9, generator=generator())
    torch.testing.assert_close(book.sums / book.counts[:, None], book.codes, rtol=1e-4, atol=1e-4)
    book.settle(merge_cosine=0.98)
    torch.testing.assert_close(book.sums / book.counts[:, None], book.codes, rtol=1e-4, atol=1e-4)


def test_a_reset_lasts():
    book = codebook()
    z = blobs(CENTRES[:1], 8)
    for _ in range(3):
        book.update([(z, z)])
    new = torch.tensor([[7.0, 7.0]])
    assert book.reset_dead(new, patience=3, generator=generator()) == 2
    assert book.codes[1:].tolist() == [[7, 7], [7, 7]]
    book.update([(z, z)])  # nobody chose them meanwhile: they must not fall back
    torch.testing.assert_close(book.codes[1:], new.expand(2, 2), rtol=1e-3, atol=1e-3)
    assert book.reset_dead(new, patience=3, generator=generator()) == 0, "a fresh code has its time"


def test_asking_changes_nothing():
    book = codebook()
    before = {name: value.clone() for name, value in book.state_dict().items()}
    book.train()(blobs(CENTRES, 5))
    book.residual(blobs(CENTRES, 5))
    book.usage({"a": blobs(CENTRES, 5)})
    assert all(torch.equal(value, before[name]) for name, value in book.state_dict().items())


@pytest.mark.parametrize(("rate", "moves"), [(1.0, False), (0.999, True)])
def test_settled_rows_keep_their_bits_or_move_slowly(rate: float, moves: bool):
    book = codebook(settled_decay=rate)
    book.settle(merge_cosine=0.98)
    before = book.codes.clone()
    z = blobs(CENTRES + 0.5, 8)
    book.update([(z, z)])
    assert torch.equal(book.codes, before) != moves
    assert float((book.codes - before).abs().max()) < 0.01
    book.idle[:] = 99
    assert book.reset_dead(z, patience=1, generator=generator()) == 0, "what it tells may be in other stages"


def test_it_grows_towards_what_it_tells_worst_under_its_cap():
    book = codebook()
    strange = torch.tensor([[9.0, 9.0]])
    z = torch.cat([blobs(CENTRES, 10), blobs(strange, 10)])
    before = book.residual(z)
    assert book.expand(z, 2, cap=4, generator=generator()) == 1, "the cap leaves room for one"
    assert float(squared_distances(strange, book.codes[3:]).max()) < 60
    assert book.residual(z) < before
    assert book.expand(z, 2, cap=4, generator=generator()) == 0


def test_joining_weighs_by_counts_and_tells_where_each_row_went():
    book = codebook(torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 0.01]]))
    book.counts[2], book.sums[2] = 30.0, book.codes[2] * 30
    where = book.settle(merge_cosine=0.98)
    assert where.tolist() == [0, 1, 0]
    torch.testing.assert_close(book.codes[0], torch.tensor([(10 + 90) / 40, 0.3 / 40]))
    assert book.codes[1].tolist() == [0, 1], "a row that stays alone keeps its bits"
    assert book.counts.tolist() == [40, 10]
    assert book.settled == 2


def test_usage_counts_codes_that_two_modalities_share():
    book = codebook()
    usage = book.usage({"a": CENTRES[[0, 0, 1]], "b": CENTRES[[0, 2, 2]]})
    assert usage.codes == 3
    assert usage.shared == pytest.approx(1 / 3)
    share = torch.tensor([3, 1, 2]) / 6
    assert usage.perplexity == pytest.approx(float((-(share * share.log()).sum()).exp()))
    assert usage.residual == {"a": 0.0, "b": 0.0}


def test_starting_with_fewer_vectors_than_codes_gives_fewer_codes():
    book = Codebook(2, decay=0.9, settled_decay=1.0, temperature=1.0)
    book.initialise(CENTRES, 10, generator())
    assert len(book) == 3
    torch.testing.assert_close(book.sums / book.counts[:, None], book.codes)
