/** What an application sees, with a scripted server and a clock that tests turn. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { CallError } from "../src/calls.ts";
import { target } from "../src/panel.ts";
import type { State } from "../src/messages.ts";
import type { Panel } from "../src/panel.ts";
import { event, failure, outcome, patch, plain, result, settle, World } from "./support.ts";
import type { Wire } from "./support.ts";

function live(options = {}, state: Wire = {}): { world: World; panel: Panel } {
  const world = new World();
  const panel = world.connect(options);
  world.socket.greet({ state });
  return { world, panel };
}

async function errorOf(promise: Promise<unknown>): Promise<CallError> {
  const found = await outcome(promise);
  assert.ok(
    found && "error" in found && found.error instanceof CallError,
    `expected a CallError, got ${String(found)}`,
  );
  return found.error;
}

// -- arguments ----------------------------------------------------------------------------------------

test("target takes the schemes of HTTP, a path, and topics with commas", () => {
  assert.equal(target("https://h/base/", { panel: "a.b:c" }), "wss://h/base/panels/a.b:c/ws");
  assert.equal(
    target("ws://h:1", { panel: "p", topics: ["state:a,b"] }),
    "ws://h:1/panels/p/ws?topics=state%3Aa%2Cb",
  );
  assert.equal(target("ws://h:1", { panel: "p", topics: [] }), "ws://h:1/panels/p/ws?topics=");
});

for (const [url, panel] of [
  ["ftp://h", "p"],
  ["nowhere", "p"],
  ["ws://h", ""],
  ["ws://h", "a/b"],
] as const)
  test(`target refuses ${url} ${JSON.stringify(panel)}`, () =>
    assert.throws(() => target(url, { panel }), TypeError));

// -- state and callbacks ------------------------------------------------------------------------------

test("state and position change before any callback runs, and the state is frozen", async () => {
  const { world, panel } = live({}, { n: 1, list: [1] });
  const seen: unknown[] = [];
  panel.subscribe("n", (value, before) => seen.push([value, before, plain(panel.state)]));
  world.socket.say(patch(1, { n: 2, other: true }));
  assert.deepEqual(seen, [[2, 1, { n: 2, list: [1], other: true }]]);
  assert.throws(() => ((panel.state as { n: number }).n = 3), TypeError);
  assert.throws(() => (panel.state["list"] as number[]).push(2), TypeError);
});

test("presence is what was heard of it, and no part of the state", () => {
  const { world, panel } = live();
  assert.deepEqual(panel.presence, { clients: 0, subjects: {} });
  const seen: unknown[] = [];
  const end = panel.onPresence(({ clients, subjects }) => seen.push([clients, Object.entries(subjects)]));
  const say = (clients: number, subjects: string, more = {}): void => {
    world.socket.say({ type: "PRESENCE", clients, subjects: JSON.parse(subjects), ...more });
  };
  say(4, '{"ada":2,"__proto__":1}', { whole: true });
  say(3, '{"ada":0,"bob":1}');
  end();
  say(1, '{"eve":1}', { whole: true });
  assert.deepEqual(seen, [
    [4, [["ada", 2], ["__proto__", 1]]],
    [3, [["__proto__", 1], ["bob", 1]]],
  ]);
  assert.deepEqual(panel.presence, { clients: 1, subjects: { eve: 1 } });
  assert.deepEqual([panel.seq, world.socket.dropped], [0, null]);
});

test("a presence that cannot be ends the connection and not the client", () => {
  for (const wrong of [{ subjects: {} }, { clients: 1, subjects: [] }, { clients: -1, subjects: {} }]) {
    const { world, panel } = live();
    world.socket.say({ type: "PRESENCE", ...wrong });
    assert.deepEqual([panel.status, panel.presence.clients], ["reconnecting", 0]);
  }
});

test("a subscriber is told only of what it selects, and not after it has ended", () => {
  const { world, panel } = live({}, { a: 1 });
  const seen: unknown[] = [];
  const end = panel.subscribe(
    ({ a }) => a,
    (value) => seen.push(value),
  );
  world.socket.say(patch(1, { b: 1 }));
  const before = panel.state;
  world.socket.say(patch(2, {}));
  assert.equal(panel.state, before);
  world.socket.say(patch(3, { a: 2 }));
  end();
  world.socket.say(patch(4, { a: 3 }));
  assert.deepEqual(seen, [2]);
});

test("a selector reads values without a copy of the state", () => {
  const { world, panel } = live({}, Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`k${i}`, i])));
  const seen: unknown[] = [];
  panel.subscribe(
    ({ k1 = 0, gone }) => k1 === 1 || gone === undefined,
    () => {},
  );
  panel.subscribe(
    (state) => "k2" in state && !("other" in state) && state["k2"],
    (value) => seen.push(value),
  );
  const { freeze } = Object;
  let largest = 0;
  Object.freeze = <T>(value: T): Readonly<T> => {
    largest = Math.max(largest, Object.keys(value as object).length);
    return freeze(value);
  };
  try {
    for (let seq = 1; seq < 5; seq++) world.socket.say(patch(seq, { k2: { seq } }));
  } finally {
    Object.freeze = freeze;
  }
  assert.deepEqual(seen.map(plain), [{ seq: 1 }, { seq: 2 }, { seq: 3 }, { seq: 4 }]);
  assert.equal(largest, 1);
});

test("a selector can do with the state what it can do with any frozen object", async () => {
  const { world, panel } = live({}, { a: 1, "b c": [2] });
  const states: State[] = [];
  const seen: unknown[] = [];
  panel.subscribe(
    (state) => state,
    (now, before) => states.push(before, now),
  );
  panel.subscribe((state) => {
    assert.throws(() => ((state as Wire)["a"] = 5), TypeError);
    assert.throws(() => ((state as Wire)["new"] = 5), TypeError);
    assert.throws(() => delete (state as Wire)["a"], TypeError);
    assert.throws(() => Object.defineProperty(state, "a", { value: 7 }), TypeError);
    assert.throws(() => Object.freeze(state), TypeError);
    assert.throws(() => Object.preventExtensions(state), TypeError);
    assert.equal(Object.hasOwn(state, "nowhere"), false);
    assert.equal(Object.getPrototypeOf(state), null);
    return JSON.stringify([Object.keys(state), { ...state }, state, Object.hasOwn(state, "a")]);
  }, (text) => seen.push(JSON.parse(text)));
  world.socket.say(patch(1, { a: null, d: 4 }));
  const call = panel.call("t", null, { optimistic: (draft) => void (draft["a"] = 9) });
  world.socket.say(result(world.socket.of("TRIGGER")[0], 1));
  await call;
  const [first, later] = [{ a: null, "b c": [2], d: 4 }, { a: 9, "b c": [2], d: 4 }];
  assert.deepEqual(
    seen,
    [first, later, first].map((state) => [Object.keys(state), state, state, true]),
  );
  assert.deepEqual(states.map(plain), [{ a: 1, "b c": [2] }, first, first, later, later, first]);
  assert.ok(states.every(Object.isFrozen));
});

test("keys of Object.prototype are keys like others", () => {
  const { world, panel } = live();
  world.socket.say(patch(1, JSON.parse('{"__proto__": 1, "constructor": 2}') as Wire));
  assert.deepEqual(Object.entries(panel.state), [
    ["__proto__", 1],
    ["constructor", 2],
  ]);
  assert.equal(panel.state["toString"], undefined);
});

test("events are told by name and by what names begin with", () => {
  const { world, panel } = live();
  const seen: unknown[] = [];
  panel.on("order.*", ({ name }) => seen.push(["*", name]));
  const end = panel.on("order.paid", ({ payload, seq, timestamp }) => seen.push([payload, seq, timestamp]));
  world.socket.say(event(1, "order.paid", 5), event(2, "order"));
  end();
  world.socket.say(event(3, "order.paid", 6));
  assert.deepEqual(seen, [
    ["*", "order.paid"],
    [5, 1, 1],
    ["*", "order.paid"],
  ]);
});

test("callbacks that throw end nothing, and are in the log", async (t) => {
  const printed = t.mock.method(console, "error", () => {});
  const { world, panel } = live({}, { n: 1 });
  const bad = (): never => {
    throw new Error("a callback's own");
  };
  let fail = false;
  const seen: unknown[] = [];
  panel.subscribe(
    (state) => (fail ? bad() : state),
    () => {},
  );
  panel.subscribe("n", bad);
  panel.subscribe("n", (value) => seen.push(value));
  panel.on("*", bad);
  panel.onStatus(bad);
  panel.onNotice(bad);
  const call = panel.call("t", null, { onProgress: bad });
  fail = true;
  world.socket.say(patch(1, { n: 2 }), event(2, "x"));
  const [sent] = world.socket.of("TRIGGER");
  world.socket.say({
    type: "PROGRESS",
    requestId: sent?.["requestId"],
    suspensionId: "s",
    extension: "e",
    method: "m",
  });
  world.socket.say(result(sent, 2, "answer"));
  assert.equal((await call).value, "answer");
  world.socket.close();
  await world.pass(1_000);
  world.socket.greet({ state: { n: 3 }, seq: 9 });
  assert.deepEqual(seen, [2, 3]);
  assert.equal(panel.status, "live");
  const logged = panel.log.filter(({ what }) => what === "callback").length;
  assert.equal(logged, 9);
  assert.equal(printed.mock.callCount(), logged);
});

test("a callback that calls back in is served after what is under way", async () => {
  const { world, panel } = live({}, { n: 1 });
  const order: unknown[] = [];
  panel.subscribe("n", (value) => {
    order.push(value);
    if (value === 2) void panel.call("t", 0, { optimistic: (draft) => void (draft["n"] = 3) });
  });
  panel.subscribe("n", (value) => order.push(`second ${String(value)}`));
  world.socket.say(patch(1, { n: 2 }));
  assert.equal(world.socket.of("TRIGGER").length, 1);
  // the second one is told once, of what is there by then
  assert.deepEqual(order, [2, "second 3", 3]);
  panel.subscribe("n", () => panel.close());
  world.socket.say(patch(2, { n: 9 }));
});

test("the whole state tells only of what has changed", async () => {
  const { world, panel } = live({}, { same: { a: [1, 2] }, other: { a: [1] } });
  const seen: string[] = [];
  const { same } = panel.state;
  panel.subscribe("same", () => seen.push("same"));
  panel.subscribe("other", () => seen.push("other"));
  world.socket.close();
  await world.pass(1_000);
  world.socket.greet({ seq: 5, state: { same: { a: [1, 2] }, other: { a: [2] } }, recovered: false });
  assert.deepEqual(seen, ["other"]);
  assert.equal(panel.state["same"], same);
});

// -- calls --------------------------------------------------------------------------------------------

test("a call gives what the handler returned, under a key of its own", async () => {
  const { world, panel } = live();
  const calls = [panel.call("add", { by: 1 }), panel.call("add")];
  const [first, second] = world.socket.of("TRIGGER");
  assert.deepEqual([first?.["tool"], first?.["args"], "args" in (second ?? {})], ["add", { by: 1 }, false]);
  assert.notEqual(first?.["idempotencyKey"], second?.["idempotencyKey"]);
  assert.deepEqual(panel.pending, [
    { key: first?.["idempotencyKey"], what: "add", sends: 1, waits: false },
    { key: second?.["idempotencyKey"], what: "add", sends: 1, waits: false },
  ]);
  // answers may come in any order
  world.socket.say(result(second, 2, "two"), result(first, 1, "one"));
  assert.deepEqual(
    (await Promise.all(calls)).map(({ value, seq }) => [value, seq]),
    [
      ["one", 1],
      ["two", 2],
    ],
  );
  assert.deepEqual(panel.pending, []);
});

test("an ERROR rejects with its code and details", async () => {
  const { world, panel } = live();
  const calls = [panel.call("a"), panel.call("b")];
  const [a, b] = world.socket.of("TRIGGER");
  world.socket.say(failure(a, "EXECUTION_ERROR", { details: { reason: "TRAP" } }));
  world.socket.say(failure(b, "OVERLOADED", { retryAfterMs: 70 }));
  const [first, second] = [await errorOf(calls[0]!), await errorOf(calls[1]!)];
  assert.deepEqual([first.code, first.details, first.ran], ["EXECUTION_ERROR", { reason: "TRAP" }, true]);
  assert.deepEqual([second.code, second.retryAfterMs, second.ran], ["OVERLOADED", 70, false]);
});

test("a call without an answer is sent again as it was, and settles once", async () => {
  const { world, panel } = live();
  const call = panel.call("add", { b: 1, a: 2 });
  const [sent] = world.socket.of("TRIGGER");
  world.socket.close(1012);
  await world.pass(1_000);
  const late = panel.call("late");
  assert.equal(world.socket.of("TRIGGER").length, 0);
  world.socket.greet({ recovered: true });
  const [again, other] = world.socket.of("TRIGGER");
  assert.deepEqual(again, sent);
  assert.equal(other?.["tool"], "late");
  world.socket.say({ type: "PONG" }, result(again, 1, 1), result(again, 1, 2), result(other, 1, 3));
  assert.equal((await call).value, 1);
  assert.equal((await late).value, 3);
});

test("a call that was sent before keeps asking when it is refused", async () => {
  const { world, panel } = live();
  const call = panel.call("add");
  world.socket.close();
  await world.pass(1_000);
  world.socket.greet({ recovered: true }).say({ type: "PONG" });
  world.socket.say(failure(world.socket.of("TRIGGER")[0], "RATE_LIMITED", { retryAfterMs: 300 }));
  await world.pass(299);
  assert.equal(world.socket.of("TRIGGER").length, 1);
  await world.pass(1);
  assert.equal(world.socket.of("TRIGGER").length, 2);
  world.socket.say(failure(world.socket.of("TRIGGER")[1], "TOOL_NOT_FOUND"));
  const error = await errorOf(call);
  assert.deepEqual([error.code, error.ran], ["TOOL_NOT_FOUND", null]);
});

test("a call that is refused for ever is given up, and may have run", async () => {
  const { world, panel } = live();
  const call = panel.call("add");
  world.socket.close();
  await world.pass(1_000);
  const { socket } = world;
  socket.onSent = (message) => {
    if (message["type"] === "TRIGGER")
      queueMicrotask(() => socket.say(failure(message, "OVERLOADED", { retryAfterMs: 1 })));
    else socket.say({ type: "PONG" });
  };
  socket.greet({ recovered: true });
  await world.pass(60_000);
  const error = await errorOf(call);
  assert.deepEqual([error.code, error.ran, socket.of("TRIGGER").length], ["OVERLOADED", null, 15]);
});

test("calls are bounded in number and size", async () => {
  const { world, panel } = live({ maxPending: 2, maxCallBytes: 200 });
  const calls = [panel.call("a"), panel.call("b")];
  const refused = await errorOf(panel.call("c"));
  assert.deepEqual([refused.code, refused.ran], ["TOO_MANY_CALLS", false]);
  world.socket.say(result(world.socket.of("TRIGGER")[0], 0));
  await calls[0];
  assert.equal((await errorOf(panel.call("d", "é".repeat(100)))).code, "TOO_LARGE");
  void panel.call("e").catch(() => {});
  assert.deepEqual(
    world.socket.of("TRIGGER").map(({ tool }) => tool),
    ["a", "b", "e"],
  );
});

test("args that are no JSON reject, and nothing is sent", async () => {
  const { world, panel } = live();
  const cycle: Wire = {};
  cycle["me"] = cycle;
  for (const args of [cycle, 1n, () => 1, Symbol("s")])
    await assert.rejects(panel.call("t", args), TypeError);
  assert.equal(world.socket.of("TRIGGER").length, 0);
  assert.deepEqual(panel.pending, []);
});

test("a signal ends the wait", async () => {
  const { world, panel } = live();
  const stop = new AbortController();
  const call = panel.call("t", 1, { signal: stop.signal, optimistic: (draft) => void (draft["n"] = 1) });
  assert.equal(panel.state["n"], 1);
  stop.abort(new Error("enough"));
  await assert.rejects(call, /enough/);
  assert.equal(panel.state["n"], undefined);
  assert.deepEqual(panel.pending, []);
  await assert.rejects(panel.call("t", 1, { signal: stop.signal }), /enough/);
  world.socket.say(result(world.socket.of("TRIGGER")[0], 0));
  assert.equal(world.socket.of("TRIGGER").length, 1);
});

test("progress is told, and the call waits", async () => {
  const { world, panel } = live();
  const seen: unknown[] = [];
  const call = panel.call("t", 1, { onProgress: (progress) => seen.push(progress) });
  const [sent] = world.socket.of("TRIGGER");
  const requestId = sent?.["requestId"];
  world.socket.say({
    type: "PROGRESS",
    requestId,
    suspensionId: "s",
    status: "suspended",
    extension: "human",
    method: "ask",
  });
  assert.deepEqual(seen, [{ suspensionId: "s", extension: "human", method: "ask" }]);
  assert.equal(panel.pending[0]?.waits, true);
  world.socket.say(result(sent, 3));
  await call;
});

test("an answer is sent and settled, also across a connection", async () => {
  const { world, panel } = live();
  const answers = [panel.answer("s1", true, 1), panel.answer("s2", undefined)];
  const [first, second] = world.socket.of("ANSWER");
  assert.deepEqual([first?.["suspensionId"], first?.["value"], first?.["call"]], ["s1", true, 1]);
  assert.deepEqual([second?.["value"], "call" in (second ?? {})], [null, false]);
  world.socket.say({ type: "ANSWERED", requestId: first?.["requestId"], suspensionId: "s1" });
  await answers[0];
  world.socket.close();
  await world.pass(1_000);
  world.socket.greet({ recovered: true });
  assert.deepEqual(world.socket.of("ANSWER"), [second]);
  world.socket.say(failure(second, "CONFLICT"));
  const error = await errorOf(answers[1]!);
  assert.deepEqual([error.code, error.ran], ["CONFLICT", null]);
});

test("calls before the first connection wait for it", async () => {
  const world = new World();
  const panel = world.connect();
  const call = panel.call("t");
  assert.equal(panel.pending[0]?.sends, 0);
  world.socket.greet();
  world.socket.say(result(world.socket.of("TRIGGER")[0], 0, 7));
  assert.equal((await call).value, 7);
});

test("close rejects what waits and what comes, and calls nothing back but the status", async () => {
  const { world, panel } = live();
  const statuses: string[] = [];
  panel.onStatus((status) => statuses.push(status));
  panel.subscribe("n", (value) => statuses.push(`told of ${String(value)}`));
  const call = panel.call("t");
  panel.close();
  panel.close();
  const [sent, after] = [await errorOf(call), await errorOf(panel.call("u"))];
  assert.deepEqual([sent.code, sent.ran, after.code, after.ran], ["CLOSED", null, "CLOSED", false]);
  assert.equal((await errorOf(panel.answer("s", 1))).code, "CLOSED");
  world.socket.say(patch(1, { n: 1 }));
  assert.deepEqual(
    [statuses, panel.reason, world.socket.dropped?.code],
    [["closed"], "close() was called", 1000],
  );
  assert.deepEqual([world.timers, world.watched], [0, 0]);
  await panel.ready;
});

test("close before the first state rejects ready", async () => {
  const world = new World();
  const panel = world.connect();
  panel.close();
  assert.equal((await errorOf(panel.ready)).code, "CLOSED");
  await world.pass(100_000);
  assert.equal(world.sockets.length, 1);
});

test("a panel that is deleted while calls wait closes, with the reason", async () => {
  const { world, panel } = live();
  const call = panel.call("t");
  world.socket.close(4404, "the panel was deleted");
  const error = await errorOf(call);
  assert.deepEqual(
    [error.code, error.details, error.ran],
    ["CLOSED", { reason: "the panel was deleted" }, null],
  );
  assert.deepEqual([panel.status, panel.reason], ["closed", "the panel was deleted"]);
  await world.pass(100_000);
  assert.equal(world.sockets.length, 1);
});

test("a panel that was made anew loses the calls that were sent, and keeps the others", async () => {
  const { world, panel } = live({}, { old: 1 });
  const notices: string[] = [];
  panel.onNotice((notice) => notices.push(`${notice} ${Object.keys(panel.state).join()}`));
  const sent = panel.call("sent");
  world.socket.close();
  await world.pass(1_000);
  const unsent = panel.call("unsent");
  world.socket.greet({ epoch: "other", seq: 0, state: { new: 1 }, recovered: false });
  const error = await errorOf(sent);
  assert.deepEqual([error.code, error.ran], ["LOST", null]);
  assert.deepEqual(
    world.socket.of("TRIGGER").map(({ tool }) => tool),
    ["unsent"],
  );
  world.socket.say(result(world.socket.of("TRIGGER")[0], 0));
  await unsent;
  assert.deepEqual(notices, ["lost new"]);
});

test("a version that went backwards is another history", async () => {
  const { world, panel } = live();
  world.socket.say(patch(1, { n: 1 }));
  const call = panel.call("t");
  const notices: string[] = [];
  panel.onNotice((notice) => notices.push(notice));
  world.socket.close();
  await world.pass(1_000);
  world.socket.greet({ seq: 0, recovered: false });
  assert.deepEqual([(await errorOf(call)).code, notices], ["LOST", ["lost"]]);
});

test("a call whose key the gateway has forgotten is not sent again", async () => {
  const { world, panel } = live();
  const call = panel.call("t");
  world.socket.close();
  await world.sleep(24 * 3_600_000);
  world.socket.greet({ recovered: true });
  assert.equal((await errorOf(call)).code, "LOST");
  assert.equal(world.socket.of("TRIGGER").length, 0);
});

// -- optimism -----------------------------------------------------------------------------------------

test("an optimistic change is shown at once, and goes with RESULT without a flicker", async () => {
  const { world, panel } = live({}, { n: 1, gone: true });
  const shown: unknown[] = [];
  panel.subscribe(
    (state) => state,
    (state) => shown.push(plain(state)),
  );
  const call = panel.call("add", 1, {
    optimistic: (draft) => {
      draft["n"] = Number(draft["n"]) + 1;
      delete draft["gone"];
    },
  });
  assert.deepEqual(shown.splice(0), [{ n: 2 }]);
  // another client's commit, then the call's own
  world.socket.say(patch(1, { other: 1 }), patch(2, { n: 2, gone: undefined }));
  assert.deepEqual(shown.splice(0), [
    { n: 2, other: 1 },
    { n: 2, other: 1 },
  ]);
  world.socket.say(result(world.socket.of("TRIGGER")[0], 2));
  await call;
  assert.deepEqual(plain(panel.state), { n: 2, other: 1 });
  assert.ok(shown.every((state) => (state as { n: number }).n === 2));
});

test("an optimistic change goes with ERROR, and those of other calls stay", async () => {
  const { world, panel } = live({}, { n: 1 });
  const add = (): Promise<unknown> =>
    panel.call("add", 1, { optimistic: (draft) => void (draft["n"] = Number(draft["n"]) + 1) });
  const calls = [add(), add()];
  assert.equal(panel.state["n"], 3);
  const [first, second] = world.socket.of("TRIGGER");
  world.socket.say(patch(1, { n: 2 }), result(first, 1));
  assert.equal(panel.state["n"], 3);
  world.socket.say(failure(second, "EXECUTION_ERROR"));
  assert.equal(panel.state["n"], 2);
  await calls[0];
  await errorOf(calls[1]!);
});

test("an optimistic change stays across connections until the answer", async () => {
  const { world, panel } = live({}, { list: [1] });
  const call = panel.call("push", 2, { optimistic: (draft) => void (draft["list"] as number[]).push(2) });
  assert.deepEqual(panel.state["list"], [1, 2]);
  world.socket.close();
  await world.pass(1_000);
  world.socket.greet({ seq: 4, state: { list: [1, 2, 3] }, recovered: false });
  assert.deepEqual(panel.state["list"], [1, 2]);
  world.socket.say(result(world.socket.of("TRIGGER")[0], 4));
  await call;
  assert.deepEqual(panel.state["list"], [1, 2, 3]);
});

test("what optimistic throws rejects the call, and nothing is sent", async () => {
  const { world, panel } = live({}, { n: 1 });
  const bad = (draft: Record<string, unknown>): never => {
    draft["n"] = 9;
    throw new Error("a draft's own");
  };
  await assert.rejects(panel.call("t", 1, { optimistic: bad }), /a draft's own/);
  await assert.rejects(panel.call("t", 1, { optimistic: (draft) => void (draft["n"] = (() => 1) as never) }));
  assert.deepEqual([plain(panel.state), world.socket.of("TRIGGER").length], [{ n: 1 }, 0]);
  await settle();
});

// -- the log ------------------------------------------------------------------------------------------

test("the log is bounded, and holds no token", async () => {
  const world = new World();
  const panel = world.connect({ token: () => "secret" });
  world.onDial = (socket) => queueMicrotask(() => socket.close(1006, "gone"));
  await world.pass(100 * 60_000);
  assert.equal(panel.log.length, 256);
  assert.ok(!JSON.stringify(panel.log).includes("secret"));
});

test("a call may expect the version that is shown", async () => {
  const { world, panel } = live({}, { n: 1 });
  assert.equal(panel.seq, 0);
  world.socket.say(patch(1, { n: 2 }));
  const call = panel.call("t", null, { expectedSeq: panel.seq });
  const [sent] = world.socket.of("TRIGGER");
  assert.equal(sent?.["expectedSeq"], 1);
  world.socket.say(failure(sent, "CONFLICT", { expectedSeq: 1, seq: 2 }));
  const error = await errorOf(call);
  assert.deepEqual([error.code, error.ran], ["CONFLICT", false]);
});
