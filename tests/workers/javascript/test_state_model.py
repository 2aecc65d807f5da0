"""``$state`` beside an ordinary object: the same random program does the same to both, and what is committed
is the difference.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from panels_shared.outcome import Completed
from tests.workers.javascript.scripts import run, value

# Keys of methods of $state and of Object.prototype are keys like others.
keys = st.sampled_from(["a", "b", "c", "get", "__proto__", "toString", "constructor", "ü", "0"])
inner_keys = st.sampled_from(["p", "q", 0, 1])
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 1e21, "", "x", "ü\U0001f600\u2028"])
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["p", "q", "r"]), inner, max_size=3)
    ),
    max_leaves=6,
)
_OPERATIONS = (
    "set", "method set", "define", "assign", "undefine", "delete", "method delete", "update", "alias", "copy",
    "graft",
    "inner set", "inner delete", "inner define", "push", "pop", "splice", "reverse", "truncate",
    "has", "list", "loop", "stringify", "spread", "nothing new",
)  # fmt: skip
steps = st.lists(st.tuples(st.sampled_from(_OPERATIONS), keys, keys, inner_keys, values), max_size=25)

#: Runs the steps on ``$state``, or on an object that has the same in it and no prototype.
_INTERPRETER = """
const onState = $args.initial === undefined;
const target = onState ? $state : Object.assign(Object.create(null), $args.initial);
// $state has methods, which hide keys that are called like them
const get = (key) => (onState ? $state.get(key) : target[key]);
const has = (key) => (onState ? $state.has(key) : key in target);
const copyOf = (value) => JSON.parse(JSON.stringify(value));
const isContainer = (value) => typeof value === "object" && value !== null;
const isSmall = (value) => value !== undefined && JSON.stringify(value).length < 60;
const seen = [];

for (const [what, key, other, inner, given] of $args.steps) {
  const now = get(key);
  switch (what) {
    case "set": target[key] = given; break;
    case "method set": onState ? $state.set(key, given) : (target[key] = given); break;
    case "define": Object.defineProperty(target, key, { value: given, writable: true, enumerable: true, configurable: true }); break;
    case "assign": Object.assign(target, { [other]: given, [key]: 1 }); break;
    case "undefine": onState ? (target[key] = undefined) : delete target[key]; break;
    case "delete": seen.push(delete target[key]); break;
    case "method delete": {
      const was = key in target;
      seen.push((onState ? $state.delete(key) : delete target[key] && was) === was);
      break;
    }
    case "update": {
      const change = (old) => (typeof old === "number" && old < 100 ? old + 1 : given);
      onState ? $state.update(key, change) : (target[key] = change(target[key]));
      break;
    }
    case "alias": if (has(other)) target[key] = get(other); break;
    case "copy": if (has(other)) target[key] = copyOf(get(other)); break;
    case "graft": if (isContainer(now) && isSmall(get(other))) now[Array.isArray(now) ? 0 : inner] = copyOf(get(other)); break;
    case "inner set": if (isContainer(now)) now[Array.isArray(now) ? Math.min(now.length, +inner || 0) : inner] = given; break;
    case "inner delete": if (isContainer(now) && !Array.isArray(now)) seen.push(delete now[inner]); break;
    case "inner define":
      if (isContainer(now) && !Array.isArray(now)) {
        Object.defineProperty(now, inner, { get: () => given, enumerable: true, configurable: true });
      }
      break;
    case "push": if (Array.isArray(now)) seen.push(now.push(given)); break;
    case "pop": if (Array.isArray(now)) seen.push(now.pop() ?? null); break;
    case "splice": if (Array.isArray(now)) seen.push(now.splice(0, 1, given, given).length); break;
    case "reverse": if (Array.isArray(now)) now.reverse(); break;
    case "truncate": if (Array.isArray(now)) now.length = Math.min(now.length, 1); break;
    case "has": seen.push(has(key), key in target, Object.hasOwn(target, other), now === undefined); break;
    case "list": seen.push(Object.keys(target).sort(), Reflect.ownKeys(target).length); break;
    case "loop": { const names = []; for (const name in target) names.push(name); seen.push(names.sort()); break; }
    case "stringify": { const all = JSON.parse(JSON.stringify(target)); delete all.get; seen.push(all); break; }
    case "spread": { const { get: _, [key]: one, ...rest } = target; seen.push(copyOf(rest)); break; }
    case "nothing new": if (has(key)) target[key] = copyOf(now); break;
  }
  seen.push(now === undefined ? "nothing" : copyOf(now));
}
seen.push(Reflect.ownKeys(target).sort(), onState ? [...$state.keys()].sort() : Object.keys(target).sort());
const left = {};
for (const key of Object.keys(target)) Object.defineProperty(left, key, { value: get(key), enumerable: true });
return [seen, left];
"""


@settings(max_examples=250, deadline=None)
@given(initial=st.dictionaries(keys, values, max_size=5), program=steps)
@example(initial={"a": [1]}, program=[("alias", "b", "a", 0, None), ("push", "a", "a", 0, 2)])
@example(
    initial={"get": {"p": 1}}, program=[("inner set", "get", "a", "p", 2), ("delete", "get", "a", 0, None)]
)
def test_state_does_what_an_ordinary_object_does(
    initial: dict[str, Any], program: list[tuple[Any, ...]]
) -> None:
    seen, left = value(_INTERPRETER, args={"initial": initial, "steps": program})
    execution = run(_INTERPRETER, state=initial, args={"steps": program})

    assert isinstance(execution.outcome, Completed), execution.outcome
    assert same(json.loads(execution.outcome.return_value), [seen, left])
    committed = dict(initial)
    for key, text in execution.changes.items():
        assert key in initial or text is not None, "a key is deleted that was not there"
        if text is None:
            del committed[key]
            continue
        assert key not in initial or not same(initial[key], json.loads(text)), (
            "a mutation that changes nothing"
        )
        committed[key] = json.loads(text)
    assert same(committed, left)


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; True and 1 are not, though they are equal in Python."""
    return json.dumps(_plain(one), sort_keys=True) == json.dumps(_plain(other), sort_keys=True)


def _plain(node: Any) -> Any:
    """1e21 comes back as an integer from a script, and is the same number."""
    if isinstance(node, dict):
        return {key: _plain(item) for key, item in node.items()}
    if isinstance(node, list):
        return [_plain(item) for item in node]
    return int(node) if isinstance(node, float) and node.is_integer() else node
