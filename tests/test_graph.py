"""Graphs: keys name everything that can reach an output, and nothing else; order follows dependencies."""

from typing import Any

import pytest
from conftest import action

from pipeline.errors import BuildError, DefinitionError
from pipeline.graph import Graph, Ref, cached, canonical
from pipeline.model import Digest
from pipeline.store import Output, Record, Store

A, B = Digest.of_bytes(b"a"), Digest.of_bytes(b"b")


def key(name: str = "x", inputs: dict[str, Any] | None = None, outputs: Any = None, **parameters: Any) -> Digest:
    return action(name, None, inputs or {}, **{"of": "it", **parameters}).key(outputs or {})[0]


def test_a_key_is_over_every_part() -> None:
    keys = [
        key(),
        key(flag="1"),
        key(flag="2"),
        key(other="1"),
        key(flag=["1"]),
        key(flag=["1", "2"]),
        key(flag=["2", "1"]),
        key(flag=1),
        key(flag="1,2"),
        key(inputs={"a": A}),
        key(inputs={"a": B}),
        key(inputs={"b": A}),
        key(inputs={"a": A, "b": B}),
        key(inputs={"a": B, "b": A}),
    ]
    assert len(set(keys)) == len(keys)


def test_a_key_does_not_depend_on_order_or_on_the_actions_name() -> None:
    assert key("x", {"a": A, "b": B}, p="1", q="2") == key("y", {"b": B, "a": A}, q="2", p="1")


def test_the_output_of_another_action_enters_by_content() -> None:
    made = {"one": {"out": Output(A, 1)}, "two": {"result": Output(A, 1)}, "three": {"out": Output(B, 1)}}
    by_one, by_two, by_three = (
        key(inputs={"in": Ref(n, o)}, outputs=made) for n, o in [("one", "out"), ("two", "result"), ("three", "out")]
    )
    assert by_one == by_two == key(inputs={"in": A})
    assert by_one != by_three


def test_an_output_that_was_not_made_is_named() -> None:
    with pytest.raises(BuildError, match="one did not produce other"):
        key(inputs={"in": Ref("one", "other")}, outputs={"one": {"out": Output(A, 1)}})


@pytest.mark.parametrize("value", [1.0, float("nan"), {1: "a"}, {"a": [0.5]}, b"x", {"a"}, object()])
def test_what_has_no_one_spelling_cannot_be_in_a_key(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical({"value": value})


def test_canonical_json_is_fixed() -> None:
    assert canonical({"b": [1, None, True, ("x",)], "a": "é"}) == b'{"a":"\\u00e9","b":[1,null,true,["x"]]}'


def test_actions_come_after_what_they_depend_on() -> None:
    graph = Graph(
        [
            action("c", None, {"in": Ref("a", "file")}, after=("b",)),
            action("b", None, {"in": Ref("a", "file")}),
            action("a"),
        ]
    )
    assert graph.order == ["a", "b", "c"]
    assert graph.actions["c"].dependencies == ("a", "b")


def test_a_cycle_is_refused_with_its_members() -> None:
    with pytest.raises(DefinitionError, match="a -> b -> a"):
        Graph([action("a", after=("b",)), action("b", None, {"in": Ref("a", "x")})])
    with pytest.raises(DefinitionError, match="a -> a"):
        Graph([action("a", after=("a",))])


def test_two_actions_of_one_name_are_refused() -> None:
    with pytest.raises(DefinitionError, match="two actions are called b"):
        Graph([action("a"), action("b"), action("b")])


def test_a_dependency_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DefinitionError, match="action a depends on gone, which does not exist"):
        Graph([action("a", after=("gone",))])


def test_a_closure_is_what_the_named_actions_need() -> None:
    graph = Graph([action("a"), action("b", after=("a",)), action("c", after=("b",)), action("d", after=("a",))])
    assert sorted(graph.closure(["b"]).actions) == ["a", "b"]


def test_the_critical_path_is_the_longest_that_follows(store: Store) -> None:
    graph = Graph(
        [
            action("long", seconds=10),
            action("short", seconds=1),
            action("after-short", after=("short",), seconds=20),
            action("last", after=("long", "after-short"), seconds=2),
        ]
    )
    assert graph.critical_seconds(store) == {"last": 2, "long": 12, "after-short": 22, "short": 23}
    store.remember(A, Record("long", {}, 100.0, 0.0, 0, None, {}))
    assert graph.critical_seconds(store)["long"] == 102


def test_the_record_of_another_action_is_not_taken(store: Store) -> None:
    x = action("x")
    wanted, parts = x.key({})
    store.remember(wanted, Record("x", {}, 1, 1, 1, None, {**parts, "inputs": {"a": str(A)}}))
    assert cached(x, {}, store)[2] is None
    store.remember(wanted, Record("x", {}, 1, 1, 1, None, parts))
    assert cached(x, {}, store)[2] is not None
