"""A precision proven by looking at a random part of the harvest: no completely marked patient, no likeness is needed.

The list is frozen, its order drawn at random, and a person reads it from the front. How many of the N are right is K;
for as long as the promise is broken (K at most K0), the number

    M = mean over alternatives K1 > K0 of  P(what was read | K1) / P(what was read | K0)

is a non-negative supermartingale that begins at 1, so it ever reaches 1 / level with a chance of at most `level`
(Ville). One may therefore look at it after every verdict, stop, and go on. Draws are without replacement, so nothing is
assumed of patients, scanners, models or scores. The method of risk-limiting audits of elections (BRAVO; ALPHA,
arXiv 2201.02707); simulated by benchmarks/audit.py; docs/decisions/0016.

What the claim takes from the reader: an accepted find is right. Readers err, so finds known to be none are planted
among the others: from what share of them is accepted follows how much higher the accepted share must be.
"""

import hashlib
import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile
from typing import Final

import numpy as np
from scipy.stats import beta

from harvester.certificate.evidence import Array
from harvester.errors import SettingsError

ALTERNATIVES: Final = (0.2, 0.4, 0.6, 0.8, 0.95)
"""K1 / N as ways from the target to 1 (0.92, 0.94, 0.96, 0.98 and 0.995 for 0.90), fixed before anybody looks."""
SMALLEST_RUNG: Final = 60
"""Of fewer finds nearly all must be read: they are no rung of their own."""
GROWTH: Final = 1.25
"""Few rungs: each is at least so many times as large as the one before."""
READER_SHARE: Final = 0.2
"""Of the level, for the bound of the reader's false accepts (0.01 of 0.05)."""
MOST_TAKEN: Final = 0.1
"""A reader who takes a larger share of the planted finds for lesions proves nothing. False accepts are bounded by their
expected number; a lax reader accepts all of a short list by chance, and then that is no bound at all."""
TAKES_ALL: Final = 1 - 1e-9
"""The false accepts of such a reader."""
FIRST_ATTEMPT: Final = 0.8
"""Of the level; later attempts get 0.1, 0.05, 0.025 and so on, all together no more than the level."""


class Verdict(StrEnum):
    """What a reader says of a find: a lesion; one whose box is off; none; cannot tell, which counts as none."""

    ACCEPTED = "accepted"
    MOVED = "moved"
    REJECTED = "rejected"
    UNSURE = "unsure"


RIGHT: Final = frozenset({Verdict.ACCEPTED, Verdict.MOVED})


@dataclass(frozen=True)
class Claim:
    """At least `target` of a frozen list is right, except with a chance of `level`.

    false_accepts   upper bound of the chance that this reader accepts what is no lesion: as much higher must be what
                    the reader accepts
    """

    target: float
    level: float
    false_accepts: float = 0.0

    def __post_init__(self) -> None:
        for name in ("target", "level"):
            if not 0 < getattr(self, name) < 1:
                raise SettingsError(f"{name} = {getattr(self, name)}: want a number between 0 and 1")
        if not 0 <= self.false_accepts < 1:
            raise SettingsError(f"false_accepts = {self.false_accepts}: want 0 or more, less than 1")

    @property
    def believed(self) -> bool:
        """Whether the reader's word proves anything."""
        return self.false_accepts < TAKES_ALL

    @property
    def accepted(self) -> float:
        """The share that the reader must accept, were all of the list read."""
        return self.target + (1 - self.target) * self.false_accepts

    def broken(self, total: int) -> int:
        """K0: of so many the largest count of accepted ones that breaks the promise."""
        if not self.believed:
            return total
        return math.ceil(self.accepted * total - 1e-9) - 1

    def alternatives(self, total: int) -> Array:
        """K1 of every alternative, (5,) whole numbers."""
        shares = self.target + (1 - self.target) * np.array(ALTERNATIVES)
        return np.minimum(np.rint(shares * total), total)

    def right(self, accepted: float) -> float:
        """The share that is right at least where such a share is accepted."""
        if not self.believed:
            return 0.0
        return max(0.0, (accepted - self.false_accepts) / (1 - self.false_accepts))


def evidence(right: Array, total: int, broken: Array | int, alternatives: Array) -> Array:
    """(t, k) M after each of t reviews against each of k counts `broken` of accepted ones among `total`.

    right           (t,) bool, in the order of the draw
    alternatives    (a,) counts; those that are not above a count of `broken` are taken as the next above it
    """
    right, nulls = np.asarray(right, bool)[:, None, None], np.atleast_1d(broken).astype(np.float64)[:, None]
    others = np.minimum(np.maximum(np.asarray(alternatives, np.float64), nulls + 1), total)
    found = np.cumsum(right, axis=0) - right
    left = total - np.arange(len(right))[:, None, None]
    m, q = (nulls - found) / left, (others - found) / left
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(right, np.log(q) - np.log(m), np.log1p(-np.minimum(q, 1)) - np.log1p(-np.minimum(m, 1)))
    # More accepted than the promise's largest: it is kept for certain. An alternative that cannot be any more is out.
    kept, out = found + right > nulls, total - others < np.arange(1, len(right) + 1)[:, None, None] - found - right
    grown = np.exp(np.cumsum(np.where(kept | out, 0.0, steps), axis=0))
    return np.where(kept.any(-1), np.inf, np.where(out, 0.0, grown).mean(-1))


def proven_at(right: Array, total: int, claim: Claim) -> int | None:
    """After how many reviews the claim is proven; None where these do not prove it, or the rest shows it false."""
    if total - np.sum(~np.asarray(right, bool)) <= claim.broken(total):
        return None
    grown = evidence(right, total, claim.broken(total), claim.alternatives(total))[:, 0]
    reached = np.flatnonzero(grown >= 1 / claim.level)
    return int(reached[0]) + 1 if len(reached) else None


def lower_bound(right: Array, total: int, claim: Claim) -> float:
    """The share of the list that is right at least, by these reviews: valid at any time, whatever was seen before.

    The smallest count whose own M never reached 1 / level, among those that can still be.
    """
    right, others = np.asarray(right, bool), claim.alternatives(total)
    least, most = int(np.sum(right)), total - int(np.sum(~right))

    def passed(counts: Array) -> Array:
        return np.asarray(evidence(right, total, counts, others).max(0, initial=0) >= 1 / claim.level)

    # Below the smallest alternative a count passes if a larger one does; above it each has alternatives of its own.
    level = range(least, min(most, int(others.min())))
    least += bisect_left(level, True, key=lambda count: not passed(np.array([count]))[0])
    if level.stop <= least < most:
        least += int(np.argmin(np.append(passed(np.arange(least, most)), False)))
    return claim.right(least / total) if total else 0.0


def reviews_left(right: Array, total: int, claim: Claim) -> int | None:
    """How many more reviews will prove the claim if as large a share of them is right as so far; None: not so."""
    if proven_at(right, total, claim):
        return 0
    share = float(np.mean(right)) if len(right) else 1.0
    counts = np.floor(np.arange(len(right), total + 1) * share + 0.5)
    future = np.concatenate([np.asarray(right, bool), np.diff(counts) > 0])
    reached = proven_at(future, total, claim)
    return reached - len(right) if reached else None


def false_accepts(accepted: int, planted: int, level: float) -> float:
    """Upper bound of the chance that a reader accepts what is none (Clopper and Pearson); 1 where none was planted."""
    return float(beta.ppf(1 - level, accepted + 1, planted - accepted)) if accepted < planted else 1.0


def level_of_attempt(level: float, attempt: int) -> float:
    """The share of the level that attempt 0, 1, 2, ... at one archive has."""
    return level * (FIRST_ATTEMPT if attempt == 0 else (1 - FIRST_ATTEMPT) * 0.5**attempt)


def rungs(cuts: Iterable[int], total: int) -> tuple[int, ...]:
    """Of nested lists of such sizes those that are worth a test, and all of `total` as the last.

    The strictest of SMALLEST_RUNG finds or more stays in any case: it is the surest to be proven. Others are GROWTH
    times as large as the one before.
    """
    kept: list[int] = []
    for size in sorted({size for size in cuts if SMALLEST_RUNG <= size < total}):
        if not kept or size >= GROWTH * kept[-1]:
            kept.append(size)
    while len(kept) > 1 and total < GROWTH * kept[-1]:
        kept.pop()
    return (*kept, total)


def list_hash(finds: Iterable[str]) -> str:
    """Names a list by what is on it, in whatever order."""
    return hashlib.sha256("\n".join(sorted(finds)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Deck:
    """What is asked, in which order.

    ranked      the finds of the largest list, best first
    sizes       how many of them each rung takes, rising
    order       the same finds as drawn
    planted     finds that are known: True for a lesion; they are in no list
    places      before which place of `order` each of them is shown, in its order
    """

    ranked: tuple[str, ...]
    sizes: tuple[int, ...]
    order: tuple[str, ...]
    planted: Mapping[str, bool]
    places: tuple[int, ...]

    @classmethod
    def drawn(cls, ranked: Sequence[str], sizes: Sequence[int], planted: Mapping[str, bool], seed: int) -> "Deck":
        """One random order for every rung. What is planted comes within the first 2 x len(planted) screens or so."""
        rng = np.random.default_rng(seed)
        order = tuple(ranked[at] for at in rng.permutation(len(ranked)))
        names = [sorted(planted)[at] for at in rng.permutation(len(planted))]
        first = min(sizes[0] if sizes else 0, 2 * len(names))
        places = tuple(np.sort(rng.integers(0, max(1, first), len(names))).tolist())
        return cls(tuple(ranked), tuple(sizes), order, {name: planted[name] for name in names}, places)

    @property
    def lures(self) -> list[str]:
        """What is planted and is none."""
        return [name for name, lesion in self.planted.items() if not lesion]

    def unread(self, verdicts: Mapping[str, Verdict]) -> list[str]:
        """What is left to read, planted finds among it."""
        return [name for name in (*self.order, *self.planted) if name not in verdicts]

    def members(self, rung: int) -> list[str]:
        """The finds of a rung in the order in which they are read."""
        own = set(self.ranked[: self.sizes[rung]])
        return [find for find in self.order if find in own]

    def screens(self, rung: int) -> list[str]:
        """What is shown until all of a rung is read, what is planted included; without rungs all there is."""
        shown = self.members(rung) if self.sizes else list(self.order)
        for name, place in sorted(zip(self.planted, self.places, strict=True), key=lambda each: each[1], reverse=True):
            shown.insert(min(place, len(shown)), name)
        return shown


@dataclass(frozen=True)
class Standing:
    """Where the test of a rung is.

    size        finds of the rung
    right       (t,) bool: what the reader said of its finds, in the order of the draw, up to the first unread one
    bound       the share that is right at least
    proven_at   after how many reviews the claim was proven, or None
    left        how many more reviews are likely to prove it (0: proven); None: not at this rate
    exact       share of those accepted whose box is not off
    """

    size: int
    right: tuple[bool, ...]
    bound: float
    proven_at: int | None
    left: int | None
    exact: float


def claim_of(
    deck: Deck, verdicts: Mapping[str, Verdict], target: float, level: float, unread: Verdict = Verdict.ACCEPTED
) -> Claim:
    """With what the planted finds say of the reader.

    Those that are unread yet count as accepted, so the bound holds at any time: it only falls when they are read. As
    rejected (`unread`) they show where the audit is heading.
    """
    lures = deck.lures
    if not lures:
        return Claim(target, level)
    accepted = sum(verdicts.get(name, unread) in RIGHT for name in lures)
    bound = false_accepts(accepted, len(lures), READER_SHARE * level)
    taken = min(bound, TAKES_ALL) if accepted <= MOST_TAKEN * len(lures) else TAKES_ALL
    return Claim(target, (1 - READER_SHARE) * level, taken)


def standings(deck: Deck, verdicts: Mapping[str, Verdict], claim: Claim) -> list[Standing]:
    """Of the rungs from the strictest down, each at the full level, to the first that is not proven."""
    found: list[Standing] = []
    for rung in range(len(deck.sizes)):
        found.append(standing(deck.members(rung), verdicts, claim))
        if found[-1].proven_at is None:
            break
    return found


def read_through(
    deck: Deck, answer: Callable[[str], Verdict], target: float, level: float
) -> tuple[dict[str, Verdict], int]:
    """All verdicts of a reader who looks until the strictest rung is proven, then the next, until one is not.

    Gives them, and the size of the largest proven rung, 0 for none. For rehearsals: a person reads the page.
    """
    said: dict[str, Verdict] = {}
    proven = 0
    for rung, size in enumerate(deck.sizes):
        members = deck.members(rung)
        for find in deck.screens(rung):
            if standing(members, said, claim_of(deck, said, target, level)).proven_at:
                break
            if find not in said:
                said[find] = answer(find)
        if not standing(members, said, claim_of(deck, said, target, level)).proven_at:
            break
        proven = size
    return said, proven


def standing(members: Sequence[str], verdicts: Mapping[str, Verdict], claim: Claim) -> Standing:
    """Of one list, read in this order: what comes after the first unread find has no say."""
    read = [verdicts[find] for find in takewhile(verdicts.__contains__, members)]
    right = np.array([verdict in RIGHT for verdict in read], bool)
    accepted = sum(right)
    return Standing(
        len(members),
        tuple(right.tolist()),
        lower_bound(right, len(members), claim),
        proven_at(right, len(members), claim),
        reviews_left(right, len(members), claim),
        read.count(Verdict.ACCEPTED) / accepted if accepted else 0.0,
    )


def agreement(one: Mapping[str, Verdict], other: Mapping[str, Verdict], finds: Collection[str]) -> tuple[float, float]:
    """Of two readers, on the finds that both read: share of equal answers (right or not), Cohen's kappa."""
    both = [(one[find] in RIGHT, other[find] in RIGHT) for find in finds if find in one and find in other]
    if not both:
        return 0.0, 0.0
    first, second = np.array(both, float).T
    same, chance = float(np.mean(first == second)), float(np.mean(first) * np.mean(second))
    chance += float((1 - np.mean(first)) * (1 - np.mean(second)))
    return same, (same - chance) / (1 - chance) if chance < 1 else 1.0
