"""The audit against the recursion of the book, exact chances on small lists, drawn archives with an oracle reader."""

import math
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.certificate.audit import (
    ALTERNATIVES,
    GROWTH,
    SMALLEST_RUNG,
    Claim,
    Deck,
    Verdict,
    agreement,
    claim_of,
    evidence,
    false_accepts,
    level_of_attempt,
    list_hash,
    lower_bound,
    proven_at,
    reviews_left,
    rungs,
    standing,
    standings,
)
from harvester.errors import SettingsError

PLAIN = Claim(0.9, 0.05)


def textbook(right: Sequence[bool], total: int, broken: int, alternatives: Sequence[float]) -> list[float]:
    """M after each review, one alternative and one review at a time."""
    every = []
    for other in alternatives:
        other = min(max(other, broken + 1), total)
        value, found, path = 1.0, 0, []
        for reviewed, is_right in enumerate(right):
            left = total - reviewed
            m, q = (broken - found) / left, (other - found) / left
            if found > broken or (is_right and m <= 0):
                value = math.inf
            elif is_right:
                value *= q / m
            else:
                value *= 0.0 if q >= 1 else (1 - q) / (1 - m)
            found += is_right
            path.append(value)
        every.append(path)
    return [sum(column) / len(column) for column in zip(*every, strict=True)]


@st.composite
def reviews(draw: st.DrawFn) -> tuple[list[bool], int, Claim]:
    """Some of a list in random order, and a claim."""
    total = draw(st.integers(1, 80))
    right = draw(st.permutations([at < draw(st.shared(st.integers(0, total), key="k")) for at in range(total)]))
    claim = Claim(draw(st.sampled_from([0.5, 0.8, 0.9, 0.97])), 0.05, draw(st.sampled_from([0.0, 0.1])))
    return right[: draw(st.integers(1, total))], total, claim


@settings(max_examples=150, deadline=None)
@given(reviews())
def test_it_is_the_textbooks_recursion(case: tuple[list[bool], int, Claim]) -> None:
    right, total, claim = case
    others = claim.alternatives(total)
    got = evidence(np.array(right), total, claim.broken(total), others)[:, 0]
    np.testing.assert_allclose(got, textbook(right, total, claim.broken(total), others.tolist()), rtol=1e-9)


@settings(max_examples=100, deadline=None)
@given(reviews())
def test_the_bound_reaches_the_target_exactly_where_the_claim_is_proven(case: tuple[list[bool], int, Claim]) -> None:
    right, total, claim = case
    proven, bound = proven_at(np.array(right), total, claim), lower_bound(np.array(right), total, claim)
    if proven is not None:
        assert bound >= claim.target - 1e-9
        assert reviews_left(np.array(right), total, claim) == 0
    assert bound <= claim.right(1 - right.count(False) / total) + 1e-9  # what was rejected is known


@pytest.mark.parametrize(("total", "target"), [(10, 0.75), (12, 0.8), (13, 0.6)])
def test_a_broken_promise_is_proven_no_more_often_than_the_level_says(total: int, target: float) -> None:
    # Every order in which the wrong ones can come is equally likely: the chance is counted, not simulated.
    claim = Claim(target, 0.05)
    broken = claim.broken(total)
    orders = list(combinations(range(total), broken))
    false = 0
    for places in orders:
        right = np.zeros(total, bool)
        right[list(places)] = True
        false += proven_at(right, total, claim) is not None
    assert false <= 0.05 * len(orders)


def test_forty_nine_right_ones_need_twenty_six() -> None:
    assert proven_at(np.ones(49, bool), 49, PLAIN) == 26
    assert proven_at(np.ones(25, bool), 49, PLAIN) is None
    assert reviews_left(np.ones(20, bool), 49, PLAIN) == 6
    assert lower_bound(np.ones(26, bool), 49, PLAIN) >= 0.9
    assert lower_bound(np.array([], bool), 49, PLAIN) == 0.0
    assert reviews_left(np.zeros(3, bool), 49, PLAIN) is None


@pytest.mark.parametrize(
    ("total", "share", "half", "most"), [(60, 0.95, 45, 52), (200, 0.95, 93, 134), (200, 0.98, 52, 81)]
)
def test_reviews_needed_are_those_of_the_published_table(total: int, share: float, half: int, most: int) -> None:
    rng, truth = np.random.default_rng(0), np.arange(total) < round(share * total)
    needed = [proven_at(rng.permutation(truth), total, PLAIN) or total for _ in range(300)]
    assert np.median(needed) == pytest.approx(half, abs=0.1 * total)
    assert np.percentile(needed, 90) <= most + 0.05 * total


@pytest.mark.parametrize("patients", [None, 10], ids=["one by one", "whole patients"])
def test_lists_that_break_the_promise_are_certified_in_no_more_than_five_of_a_hundred_draws(
    patients: int | None,
) -> None:
    # 1,000 draws, 2.5 standard errors: 0.05 + 0.017.
    total, rng = 200, np.random.default_rng(1)
    truth = np.arange(total) < PLAIN.broken(total)
    if patients:  # all that is wrong is of a few patients, and the list is sorted by patient
        truth = np.sort(truth)
    false = [proven_at(rng.permutation(truth), total, PLAIN) is not None for _ in range(1000)]
    assert np.mean(false) <= 0.067


def test_planted_finds_catch_a_lenient_reader() -> None:
    assert false_accepts(0, 30, 0.05) == pytest.approx(0.095, abs=5e-4)
    assert false_accepts(1, 30, 0.05) == pytest.approx(0.149, abs=5e-4)
    assert (false_accepts(0, 0, 0.05), false_accepts(3, 3, 0.05)) == (1.0, 1.0)
    # A reader who accepts a fifth of what is none, on lists of 0.89: none of it may be certified more often than 0.05.
    rng, total, false = np.random.default_rng(2), 400, 0
    ranked = [f"f{at}" for at in range(total)]
    for seed in range(200):
        deck = Deck.drawn(ranked, [total], {f"p{at}": False for at in range(30)}, seed)
        lesions = set(rng.permutation(ranked)[: PLAIN.broken(total)])
        said = {
            find: Verdict.ACCEPTED if find in lesions or rng.random() < 0.2 else Verdict.REJECTED
            for find in deck.screens(0)
        }
        false += standing(deck.members(0), said, claim_of(deck, said, 0.9, 0.05)).proven_at is not None
    assert false <= 17  # 10, and 2.5 standard errors


def test_the_share_that_must_be_accepted_rises_with_the_readers_errors() -> None:
    claim = Claim(0.9, 0.05, 0.1)
    assert claim.accepted == pytest.approx(0.91)
    assert claim.right(claim.accepted) == pytest.approx(0.9)
    assert claim.right(0.05) == 0.0
    assert [Claim(0.9, 0.05).broken(total) for total in (10, 60, 200, 1000)] == [8, 53, 179, 899]
    assert Claim(0.9, 0.05).alternatives(1000).tolist() == [920, 940, 960, 980, 995]
    assert sorted(ALTERNATIVES) == list(ALTERNATIVES)


@pytest.mark.parametrize("wrong", [{"target": 1.0}, {"level": 0.0}, {"false_accepts": 1.0}, {"target": math.nan}])
def test_a_claim_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="want"):
        Claim(**{"target": 0.9, "level": 0.05, **wrong})


def test_attempts_share_the_level_out() -> None:
    shares = [level_of_attempt(0.05, attempt) for attempt in range(60)]
    assert shares[:4] == pytest.approx([0.04, 0.005, 0.0025, 0.00125])
    assert sum(shares) <= 0.05 + 1e-12


@settings(deadline=None)
@given(st.lists(st.integers(0, 900), max_size=6), st.integers(1, 900))
def test_rungs_are_few_large_and_nested(cuts: list[int], total: int) -> None:
    found = rungs(cuts, total)
    assert found[-1] == total
    assert all(after >= GROWTH * before for before, after in pairwise(found[:-1]))
    assert all(size >= SMALLEST_RUNG for size in found[:-1])
    strictest = min((size for size in cuts if SMALLEST_RUNG <= size < total), default=total)
    assert found[0] == strictest
    assert len(found) < 3 or total >= GROWTH * found[-2]


def test_the_strictest_list_is_a_rung_however_near_the_whole_one_is() -> None:
    assert rungs([85, 105, 113], 123) == (85, 123)
    assert rungs([78, 95, 120], 140) == (78, 140)
    assert rungs([100, 200, 210, 400], 1000) == (100, 200, 400, 1000)
    assert rungs([20, 40], 55) == (55,)


def drawn(total: int = 150, planted: int = 10, seed: int = 3) -> Deck:
    ranked = [f"f{at:03}" for at in range(total)]
    return Deck.drawn(ranked, rungs([60], total), {f"p{at}": at % 2 == 0 for at in range(planted)}, seed)


def test_a_deck_shows_every_find_once_in_one_order_for_all_rungs() -> None:
    deck = drawn()
    assert deck.sizes == (60, 150)
    assert sorted(deck.members(1)) == sorted(deck.ranked)
    assert set(deck.members(0)) == set(deck.ranked[:60])
    assert [find for find in deck.members(1) if find in set(deck.members(0))] == deck.members(0)
    for rung in range(2):
        shown = deck.screens(rung)
        assert sorted(shown) == sorted([*deck.members(rung), *deck.planted])
        assert [find for find in shown if find not in deck.planted] == deck.members(rung)
        assert max(shown.index(name) for name in deck.planted) < 40
    assert drawn() == deck
    assert drawn(seed=4).order != deck.order
    assert list_hash(deck.order) == list_hash(deck.ranked) != list_hash(deck.ranked[1:])


def test_what_comes_after_a_gap_has_no_say_and_cannot_tell_counts_as_none() -> None:
    members = [f"f{at}" for at in range(60)]
    said = {find: Verdict.ACCEPTED for find in members if find != "f3"}
    assert standing(members, said, PLAIN).right == (True, True, True)
    said |= {"f3": Verdict.UNSURE, "f4": Verdict.MOVED}
    full = standing(members, said, PLAIN)
    assert (sum(full.right), full.right[3], full.right[4]) == (59, False, True)
    assert full.exact == pytest.approx(58 / 59)


def test_a_rung_is_tested_only_where_the_one_before_is_proven() -> None:
    deck = drawn(planted=0)
    good = dict.fromkeys(deck.order, Verdict.ACCEPTED)
    assert [each.size for each in standings(deck, good, PLAIN)] == [60, 150]
    bad = good | dict.fromkeys(deck.members(0)[:12], Verdict.REJECTED)
    (only,) = standings(deck, bad, PLAIN)
    assert (only.size, only.proven_at, only.left) == (60, None, None)


def test_unread_planted_finds_count_as_accepted() -> None:
    deck = drawn(planted=60)
    known = [name for name, lesion in deck.planted.items() if not lesion]
    assert claim_of(deck, {}, 0.9, 0.05).false_accepts == pytest.approx(1, abs=1e-6)
    said: dict[str, Verdict] = {}
    bounds = []
    for name in known:
        said[name] = Verdict.REJECTED
        bounds.append(claim_of(deck, said, 0.9, 0.05).false_accepts)
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] == pytest.approx(false_accepts(0, len(known), 0.01))
    assert claim_of(deck, said, 0.9, 0.05).level == pytest.approx(0.04)
    assert claim_of(drawn(planted=0), {}, 0.9, 0.05) == PLAIN


def test_two_readers_agree_by_right_or_not() -> None:
    one = {"a": Verdict.ACCEPTED, "b": Verdict.MOVED, "c": Verdict.REJECTED, "d": Verdict.UNSURE}
    other: dict[str, Any] = {"a": Verdict.MOVED, "b": Verdict.REJECTED, "c": Verdict.UNSURE}
    share, kappa = agreement(one, other, "abcd")
    assert share == pytest.approx(2 / 3)
    assert kappa == pytest.approx((2 / 3 - 4 / 9) / (5 / 9))
    assert agreement(one, {}, "abcd") == (0.0, 0.0)
    assert agreement(one, one, "ab") == (1.0, 1.0)


@pytest.mark.parametrize("false_accept", [0.05, 0.2, 0.5, 0.9, 1.0])
def test_a_reader_who_takes_much_for_a_lesion_does_not_prove_a_broken_promise(false_accept: float) -> None:
    """Every find is read; 62 of 70 are right, where 0.9 is promised. Level 0.04; 200 readers: 15 are 7.5 %."""
    rng, broken, planted = np.random.default_rng(3), 0, [f"p{at}" for at in range(30)]
    order = tuple(map(str, range(70)))
    deck = Deck(order, (70,), order, dict.fromkeys(planted, False), (0,) * 30)
    for _ in range(200):
        accepts = dict(zip(planted, rng.random(30) < false_accept, strict=True))
        verdicts = {name: Verdict.ACCEPTED if taken else Verdict.REJECTED for name, taken in accepts.items()}
        said = (rng.permutation(70) < 62) | (rng.random(70) < false_accept)
        broken += proven_at(said, 70, claim_of(deck, verdicts, 0.9, 0.04)) is not None
    assert broken <= 15


def test_a_reader_who_accepts_everything_proves_nothing() -> None:
    deck = Deck.drawn([f"f{at}" for at in range(70)], (70,), {f"p{at}": False for at in range(6)}, 1)
    verdicts = dict.fromkeys([*deck.order, *deck.planted], Verdict.ACCEPTED)
    claim = claim_of(deck, verdicts, 0.9, 0.05)
    (only,) = standings(deck, verdicts, claim)
    assert (only.proven_at, only.left, only.bound) == (None, None, 0.0)
