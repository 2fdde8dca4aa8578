"""Names of settings and inputs: the same for the same values in any order of keys, others for any other value."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.config.fingerprint import settings_hash
from harvester.config.loading import dump, restore
from harvester.config.settings import Settings

words = st.text("ab-", max_size=3)
leaves = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 0.5, 1.0]) | words
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)


def turned(tree: Any) -> Any:
    """The same tree with the keys of every level the other way round."""
    if isinstance(tree, dict):
        return {key: turned(tree[key]) for key in reversed(tree)}
    return [turned(each) for each in tree] if isinstance(tree, list) else tree


@given(trees)
def test_a_hash_does_not_hang_on_the_order_of_keys(tree: Any) -> None:
    assert settings_hash(tree) == settings_hash(turned(tree))
    assert len(settings_hash(tree)) == 12


@given(trees, leaves, leaves)
def test_another_value_anywhere_is_another_hash(tree: Any, one: Any, other: Any) -> None:
    same = (type(one), one) == (type(other), other)  # 1, 1.0 and True are three values
    assert (settings_hash({"a": [tree, one]}) == settings_hash({"a": [tree, other]})) == same
    assert settings_hash(tree, one) != settings_hash([tree, one])


@settings(max_examples=10)
@given(st.integers(0, 50), st.integers(2, 9), st.floats(0.5, 0.99), st.sampled_from(["a", "night-2"]))
def test_settings_come_back_from_their_text_with_the_same_hash(seed: int, folds: int, target: float, name: str) -> None:
    tree = {"seed": seed, "folds": folds, "name": name, "operating_point": {"target_precision": target}}
    made = Settings.model_validate(tree)
    assert restore(dump(made)) == made
    assert settings_hash(restore(dump(made))) == settings_hash(made)
    assert settings_hash(made.model_copy(update={"seed": seed + 1})) != settings_hash(made)
