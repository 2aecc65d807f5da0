/**
 * Connections that fail, servers that lie, tokens, time and sleep, seen through a panel on a clock that tests
 * turn.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { course, courseOfRefusal, delay, MAX_DELAY_MS, MIN_DELAY_MS } from "../src/closing.ts";
import {
  OPEN_TIMEOUT_MS,
  PING_AFTER_MS,
  PONG_TIMEOUT_MS,
  TOKEN_TIMEOUT_MS,
  WAKE_TIMEOUT_MS,
} from "../src/core.ts";
import { MAX_MESSAGE_LENGTH } from "../src/messages.ts";
import type { ConnectOptions, Panel } from "../src/panel.ts";
import { event, failure, outcome, patch, plain, World } from "./support.ts";
import type { FakeSocket, Wire } from "./support.ts";

function live(
  options: Partial<ConnectOptions> = {},
  greeting: Wire = {},
): { world: World; panel: Panel; socket: FakeSocket } {
  const world = new World();
  const panel = world.connect(options);
  const socket = world.socket.greet(greeting);
  return { world, panel, socket };
}

// -- close codes and back-off -------------------------------------------------------------------------

test("close codes fall into three ranges", () => {
  for (const code of [1000, 1001, 1002, 1006, 1008, 1009, 1011, 1012, 1013, 3000, 4000, 4399, 4500, 4999])
    assert.equal(course(code), "retry", String(code));
  for (const code of [4400, 4403, 4404, 4499]) assert.equal(course(code), "stop", String(code));
  assert.equal(course(4401), "refresh");
});

test("refusals fall into the same three", () => {
  for (const code of ["UNAVAILABLE", "RATE_LIMITED", "OVERLOADED", "INTERNAL", "ANYTHING"])
    assert.equal(courseOfRefusal(code), "retry", code);
  for (const code of ["FORBIDDEN", "PANEL_NOT_FOUND", "INVALID_REQUEST"])
    assert.equal(courseOfRefusal(code), "stop");
  assert.equal(courseOfRefusal("UNAUTHORIZED"), "refresh");
});

test("the wait doubles up to a maximum, and half of it is random", () => {
  assert.equal(delay(0, 0), MIN_DELAY_MS / 2);
  assert.ok(delay(0, 0.999) < MIN_DELAY_MS);
  assert.equal(delay(1, 0), 2 * delay(0, 0));
  for (const attempt of [10, 1_000, Number.MAX_SAFE_INTEGER])
    assert.equal(delay(attempt, 0), MAX_DELAY_MS / 2);
});

test("status says connecting, live, reconnecting and closed", async () => {
  const world = new World();
  const panel = world.connect();
  const seen: string[] = [panel.status];
  panel.onStatus((status) => seen.push(status));
  world.socket.close();
  await world.pass(1_000);
  world.socket.greet();
  await panel.ready;
  world.socket.close();
  await world.pass(1_000);
  world.socket.greet({ recovered: true });
  assert.equal(panel.status, "reconnecting");
  world.socket.say({ type: "PONG" });
  panel.close();
  assert.deepEqual(seen, ["connecting", "live", "reconnecting", "live", "closed"]);
});

test("recovered is told when everything that was missed has come", async () => {
  const { world, panel, socket } = live({}, { state: { n: 1 }, seq: 1 });
  const seen: unknown[] = [];
  panel.onNotice((notice) => seen.push([notice, panel.state["n"]]));
  socket.close();
  await world.pass(1_000);
  world.socket.greet({ recovered: true, seq: 3 });
  assert.deepEqual(world.socket.sent, [{ type: "PING" }]);
  world.socket.say(patch(2, { n: 2 }), patch(3, { n: 3 }), { type: "PONG" }, { type: "PONG" });
  assert.deepEqual(seen, [["recovered", 3]]);
});

test("attempts that fail come further and further apart, and a stable connection begins anew", async () => {
  const world = new World();
  world.connect();
  const gaps: number[] = [];
  for (let i = 0; i < 9; i++) {
    const { time, sockets } = world;
    world.socket.close();
    while (world.sockets === sockets && sockets.length === i + 1) await world.pass(5);
    gaps.push(world.time - time);
  }
  assert.deepEqual(gaps.slice(0, 4), [375, 750, 1_500, 3_000]);
  assert.equal(gaps.at(-1), 0.75 * MAX_DELAY_MS);
  world.socket.greet();
  await world.pass(6_000);
  world.socket.close();
  await world.pass(375);
  assert.equal(world.sockets.length, 11);
});

test("restarts that the gateway tells of are no failures, however many come", async () => {
  const { world } = live();
  for (let restart = 1; restart < 8; restart++) {
    world.socket.close(1012, "retry in 90 ms");
    await world.pass(375);
    assert.equal(world.sockets.length, 1 + restart);
    world.socket.greet({ recovered: true }).say({ type: "PONG" });
  }
});

test("a server that greets and closes is not asked in a tight loop", async () => {
  const world = new World();
  world.connect();
  world.onDial = (socket) =>
    queueMicrotask(() => (socket.greet({ recovered: socket.query.has("since") }), socket.close(1011)));
  world.socket.greet().close();
  await world.pass(60_000);
  assert.ok(world.sockets.length < 12, String(world.sockets.length));
});

test("a refused upgrade waits for as long as the gateway asks", async () => {
  const world = new World();
  const panel = world.connect();
  world.socket.listener.refused("RATE_LIMITED", "too many", 20_000);
  await world.pass(19_999);
  assert.equal(world.sockets.length, 1);
  await world.pass(1);
  assert.equal(world.sockets.length, 2);
  world.socket.listener.refused("FORBIDDEN", "not yours", 0);
  assert.deepEqual([panel.status, panel.reason], ["closed", "FORBIDDEN: not yours"]);
});

test("a gateway that restarts is asked when it says so, if that is later than the client would", async () => {
  for (const [code, reason, waited] of [
    [1012, "retry in 9000 ms", 9_000],
    [1012, "retry in 99999999 ms", 500],
    [1012, "retry in 90 ms", 500],
    [1012, "", 500],
    [1013, "retry in 9000 ms", 500],
  ] as const) {
    const { world } = live();
    world.socket.close(code, reason);
    await world.pass(waited - 1 - (waited === 500 ? 250 : 0));
    assert.equal(world.sockets.length, 1, reason);
    await world.pass(1 + 250);
    assert.equal(world.sockets.length, 2, reason);
  }
});

test("a socket that cannot be made is an attempt that failed", async () => {
  const world = new World();
  const panel = world.connect();
  world.onDial = () => {
    throw new SyntaxError("no such protocol");
  };
  world.socket.close();
  await world.pass(10_000);
  assert.ok(world.sockets.length > 3);
  world.onDial = null;
  await world.pass(10_000);
  world.socket.greet();
  assert.equal(panel.status, "live");
});

test("an upgrade that hangs is given up", async () => {
  const world = new World();
  world.connect();
  await world.pass(OPEN_TIMEOUT_MS - 1);
  assert.equal(world.socket.dropped, null);
  await world.pass(1_000);
  assert.match(world.sockets[0]?.dropped?.reason ?? "", /CONNECTED/);
  assert.equal(world.sockets.length, 2);
});

test("what a dead connection says late is dropped", async () => {
  const { world, panel, socket } = live({}, { state: { n: 1 }, seq: 5 });
  const call = panel.call("t");
  socket.close();
  socket.say(patch(6, { n: 2 }));
  await world.pass(1_000);
  socket.say(patch(7, { n: 3 }), {
    type: "RESULT",
    requestId: socket.sent[0]?.["requestId"],
    seq: 7,
    result: {},
  });
  socket.close(4404);
  assert.deepEqual([plain(panel.state), await outcome(call), world.sockets.length], [{ n: 1 }, null, 2]);
});

test("a call that the gateway finds too large fails, and the others are sent again", async () => {
  const { world, panel, socket } = live();
  const calls = [panel.call("small"), panel.call("large", "x".repeat(1_000))];
  socket.close(1009, "too big");
  const found = (await outcome(calls[1]!)) as { error: { code: string } };
  assert.equal(found.error.code, "TOO_LARGE");
  await world.pass(1_000);
  world.socket.greet({ recovered: true });
  assert.deepEqual(
    world.socket.of("TRIGGER").map(({ tool }) => tool),
    ["small"],
  );
});

// -- servers that lie ---------------------------------------------------------------------------------

const LIES: Record<string, (Wire | string)[]> = {
  "a second CONNECTED": [{ type: "CONNECTED", panelId: "p", seq: 9, epoch: "e", state: {} }],
  "a version again": [patch(5, { n: 9 })],
  "an older version": [patch(3, { n: 9 })],
  "a gap": [patch(7, { n: 9 })],
  "a gap by prevSeq": [patch(9, { n: 9 }, { prevSeq: 6 })],
  "an event behind a gap": [event(7, "x")],
  "a version before the one it follows": [patch(6, { n: 9 }, { prevSeq: 6 })],
  "a version that is no number": [{ ...patch(6, { n: 9 }), seq: "6" }],
  "a version above 2^53": [{ ...patch(6, { n: 9 }), seq: 2 ** 60, prevSeq: 5 }],
  "mutations that are none": [{ type: "PATCH", seq: 6, mutations: 1 }],
  "a mutation that is none": [{ type: "PATCH", seq: 6, mutations: [null] }],
  "an unknown op": [{ type: "PATCH", seq: 6, mutations: [{ op: "add", key: "n", value: 9 }] }],
  "a set without a value": [{ type: "PATCH", seq: 6, mutations: [{ op: "set", key: "n" }] }],
  "an event without a name": [{ type: "EVENT", seq: 6, event: {} }],
  "no JSON": ["{"],
  "no object": ["[]"],
  "no type": ["{}"],
  "a RESULT without a result": [{ type: "RESULT", requestId: "c1", seq: 5 }],
};

for (const [name, messages] of Object.entries(LIES))
  test(`a server that sends ${name} is left, and asked for everything`, async () => {
    const { world, panel, socket } = live({}, { state: { n: 1 }, seq: 5 });
    socket.say(...messages);
    assert.ok(socket.dropped);
    assert.deepEqual([panel.status, plain(panel.state)], ["reconnecting", { n: 1 }]);
    await world.pass(1_000);
    assert.deepEqual([world.socket.query.get("since"), world.socket.query.get("epoch")], ["none", "e"]);
    // to have lied once is no reason to lie again
    world.socket.greet({ recovered: true });
    assert.ok(world.socket.dropped);
    await world.pass(2_000);
    world.socket.greet({ recovered: false, state: { n: 2 }, seq: 5 });
    assert.deepEqual([panel.status, plain(panel.state)], ["live", { n: 2 }]);
  });

test("frames that are binary, huge or nested too deeply are left", async () => {
  const frames = [
    new ArrayBuffer(1),
    "x".repeat(MAX_MESSAGE_LENGTH + 1),
    `{"type":"PATCH","seq":1,"mutations":${"[".repeat(1e6)}`,
  ];
  for (const data of frames) {
    const { world, panel, socket } = live();
    socket.listener.message(data);
    assert.ok(socket.dropped);
    await world.pass(1_000);
    world.socket.greet({ recovered: false });
    assert.equal(panel.status, "live");
  }
});

test("a state that is nested as deeply as the engine reads is taken", async () => {
  const depth = 5_000;
  const deep = `${"[".repeat(depth)}${"]".repeat(depth)}`;
  const { world, panel, socket } = live();
  socket.say(`{"type":"PATCH","seq":1,"mutations":[{"op":"set","key":"a","value":${deep}}]}`);
  assert.deepEqual(Object.keys(panel.state), ["a"]);
  panel.close();
  assert.equal(world.timers, 0);
});

for (const [name, message] of Object.entries<Wire>({
  "a PATCH": patch(1, { n: 1 }),
  "an ERROR": failure(undefined, "INTERNAL"),
  "another panel's CONNECTED": { type: "CONNECTED", panelId: "q", seq: 0, epoch: "e", state: {} },
  "CONNECTED without a state": { type: "CONNECTED", panelId: "p", seq: 0, epoch: "e" },
  "CONNECTED that recovers what was never there": {
    type: "CONNECTED",
    panelId: "p",
    seq: 0,
    epoch: "e",
    recovered: true,
  },
}))
  test(`a server that begins with ${name} is left`, async () => {
    const world = new World();
    const panel = world.connect();
    world.socket.say(message);
    assert.ok(world.socket.dropped);
    await world.pass(1_000);
    assert.equal(world.socket.query.has("since"), false);
    world.socket.greet();
    assert.equal(panel.status, "live");
  });

for (const [name, greeting] of Object.entries<Wire>({
  "another epoch": { recovered: true, epoch: "f", seq: 9 },
  "an older version": { recovered: true, seq: 4 },
  "a state as well": { recovered: true, seq: 9, state: {} },
}))
  test(`a server that recovers with ${name} is left, and asked for everything`, async () => {
    const { world, socket } = live({}, { seq: 5 });
    socket.close();
    await world.pass(1_000);
    world.socket.greet(greeting);
    assert.ok(world.socket.dropped);
    await world.pass(2_000);
    assert.equal(world.socket.query.get("since"), "none");
  });

test("types and answers that nobody knows change nothing", () => {
  const { panel, socket } = live({}, { state: { n: 1 } });
  socket.say(
    { type: "NEWS", seq: 1 },
    { type: "RESULT", requestId: "c9", seq: 0, result: {} },
    failure(undefined, "INTERNAL"),
  );
  socket.say(
    { type: "SUBSCRIBED", requestId: "x", topics: [], seq: 99 },
    { type: "ANSWERED" },
    { type: "PONG" },
    patch(1, { n: 2 }),
  );
  assert.deepEqual([socket.dropped, plain(panel.state)], [null, { n: 2 }]);
});

// -- tokens -------------------------------------------------------------------------------------------

function tokens(): { provider: () => string; asked: () => number } {
  let asked = 0;
  return { provider: () => `t${++asked}`, asked: () => asked };
}

test("a provider is asked at the start and after 4401 only", async () => {
  const { provider, asked } = tokens();
  const world = new World();
  const panel = world.connect({ token: provider });
  await world.pass(0);
  world.socket.greet().close(1012);
  await world.pass(1_000);
  assert.equal(world.socket.token, "t1");
  world.socket.greet({ recovered: true }).close(4401, "the token has expired");
  await world.pass(2_000);
  assert.deepEqual([world.socket.token, asked()], ["t2", 2]);
  world.socket.listener.refused("UNAUTHORIZED", "expired", 0);
  await world.pass(4_000);
  assert.deepEqual([world.socket.token, asked(), panel.status], ["t3", 3, "reconnecting"]);
});

test("a token that is a string cannot be renewed, so the client stops", async () => {
  const { world, panel, socket } = live({ token: "only" });
  socket.say({ type: "TOKEN_EXPIRING", expiresAt: 1 });
  assert.deepEqual([socket.token, socket.sent], ["only", []]);
  socket.close(4401, "the token has expired");
  assert.deepEqual([panel.status, panel.reason], ["closed", "the token has expired"]);
  await world.pass(100_000);
  assert.equal(world.sockets.length, 1);
});

test("a provider whose tokens are refused again and again ends it", async () => {
  const { provider, asked } = tokens();
  const world = new World();
  const panel = world.connect({ token: provider });
  world.onDial = (socket) => queueMicrotask(() => socket.listener.refused("UNAUTHORIZED", "no", 0));
  await world.pass(100_000);
  assert.deepEqual([panel.status, panel.reason, asked()], ["closed", "UNAUTHORIZED: no", 4]);
});

test("tokens that were good for a while do not count as refused", async () => {
  const { provider } = tokens();
  const world = new World();
  const panel = world.connect({ token: provider });
  for (let i = 1; i < 9; i++) {
    await world.pass(1_000);
    assert.equal(world.socket.token, `t${i}`);
    world.socket.greet({ recovered: i > 1 }).say({ type: "PONG" });
    await world.pass(6_000);
    world.socket.close(4401);
  }
  assert.equal(panel.status, "reconnecting");
});

for (const [name, provider] of Object.entries<() => string | Promise<string>>({
  throws: () => {
    throw new Error("no token today");
  },
  rejects: () => Promise.reject(new Error("no token today")),
  "gives nothing": () => "",
  "gives what no header takes": () => "a\r\nb",
  "gives no string": () => 5 as unknown as string,
}))
  test(`a provider that ${name} is asked again`, async (t) => {
    const asked = t.mock.fn(provider);
    const world = new World();
    const panel = world.connect({ token: asked });
    await world.pass(10_000);
    assert.deepEqual([world.sockets.length, panel.status], [0, "connecting"]);
    assert.ok(asked.mock.callCount() > 2 && asked.mock.callCount() < 8);
    asked.mock.mockImplementation(() => "good");
    await world.pass(MAX_DELAY_MS);
    world.socket.greet();
    assert.deepEqual([world.socket.token, panel.status], ["good", "live"]);
  });

test("a provider that hangs is asked again, and what it gives in the end is dropped", async () => {
  let give: (token: string) => void = () => {};
  let asked = 0;
  const world = new World();
  world.connect({
    token: () => (++asked === 1 ? new Promise<string>((resolve) => (give = resolve)) : `t${asked}`),
  });
  await world.pass(TOKEN_TIMEOUT_MS - 1);
  assert.equal(asked, 1);
  await world.pass(1_000);
  give("late");
  await world.pass(0);
  assert.deepEqual([asked, world.sockets.length, world.socket.token], [2, 1, "t2"]);
  world.socket.greet().close();
  await world.pass(1_000);
  assert.equal(world.socket.token, "t2");
});

test("a token that is about to expire is renewed on the connection", async () => {
  const { provider } = tokens();
  const world = new World();
  const panel = world.connect({ token: provider });
  await world.pass(0);
  const socket = world.socket
    .greet()
    .say({ type: "TOKEN_EXPIRING", expiresAt: 1 }, { type: "TOKEN_EXPIRING", expiresAt: 1 });
  await world.pass(0);
  assert.deepEqual(socket.of("REFRESH"), [{ type: "REFRESH", token: "t2", requestId: "refresh" }]);
  socket.say(failure(socket.sent[0], "RATE_LIMITED", { retryAfterMs: 1_500 }));
  await world.pass(1_500);
  assert.equal(socket.of("REFRESH")[1]?.["token"], "t3");
  socket.say({ type: "REFRESHED", requestId: "refresh", expiresAt: 2 });
  socket.close();
  await world.pass(1_000);
  assert.deepEqual([world.socket.token, panel.status], ["t3", "reconnecting"]);
});

test("a provider that fails while the connection lives is asked again in good time", async () => {
  let asked = 0;
  const world = new World();
  world.connect({
    token: () =>
      ++asked === 2
        ? Promise.reject(new Error("busy"))
        : asked === 3
          ? new Promise<string>(() => {})
          : `t${asked}`,
  });
  await world.pass(0);
  const { socket } = world;
  socket.onSent = (message) => message["type"] === "PING" && socket.say({ type: "PONG" });
  socket.greet().say({ type: "TOKEN_EXPIRING", expiresAt: 1 });
  await world.pass(10_000 + TOKEN_TIMEOUT_MS + 10_000);
  assert.deepEqual(
    socket.of("REFRESH").map(({ token }) => token),
    ["t4"],
  );
});

// -- time ---------------------------------------------------------------------------------------------

test("a silent connection is asked, and left if it stays silent", async () => {
  const { world, panel, socket } = live();
  await world.pass(PING_AFTER_MS);
  assert.deepEqual(socket.sent, [{ type: "PING" }]);
  await world.pass(PONG_TIMEOUT_MS - 1);
  socket.say({ type: "PONG" });
  await world.pass(PING_AFTER_MS + PONG_TIMEOUT_MS - 1);
  assert.deepEqual([socket.sent.length, socket.dropped], [2, null]);
  await world.pass(1);
  assert.match(socket.dropped?.reason ?? "", /PONG/);
  assert.equal(panel.status, "reconnecting");
});

test("a connection that says something is not asked", async () => {
  const { world, socket } = live();
  for (let seq = 1; seq < 10; seq++) {
    await world.pass(PING_AFTER_MS - 1);
    socket.say(patch(seq, {}));
  }
  assert.deepEqual(socket.sent, []);
});

test("a timer that comes late is no proof that the server is dead", async () => {
  const { world, socket } = live();
  await world.pass(PING_AFTER_MS);
  await world.sleep(3_600_000);
  assert.deepEqual([socket.sent.length, socket.dropped], [2, null]);
  socket.say({ type: "PONG" });
  await world.pass(PING_AFTER_MS);
  await world.sleep(3_600_000);
  assert.deepEqual([socket.sent.length, socket.dropped], [4, null]);
  socket.say({ type: "PONG" });
  // but where timers are always late it is one the second time
  await world.sleep(PING_AFTER_MS);
  await world.sleep(60_000);
  await world.sleep(60_000);
  assert.ok(socket.dropped);
});

test("after sleep the connection is asked at once", async () => {
  const { world, socket } = live();
  await world.pass(1_000);
  await world.sleep(3_600_000, { clockRuns: false });
  await world.pass(PING_AFTER_MS - 1_000);
  assert.equal(socket.sent.length, 1);
  await world.pass(WAKE_TIMEOUT_MS);
  assert.ok(socket.dropped);
});

test("a page that comes to the front asks at once, and connects at once", async () => {
  const { world, socket } = live();
  world.tell("wake");
  world.tell("wake");
  assert.deepEqual(socket.sent, [{ type: "PING" }]);
  await world.pass(WAKE_TIMEOUT_MS);
  assert.ok(socket.dropped);
  world.tell("wake");
  assert.equal(world.sockets.length, 2);
  world.tell("wake");
  assert.equal(world.sockets.length, 2);
});

test("offline holds attempts back, but not for ever, and online brings one at once", async () => {
  const { world, socket } = live();
  world.tell("offline");
  assert.deepEqual(socket.sent, [{ type: "PING" }]);
  await world.pass(WAKE_TIMEOUT_MS + MAX_DELAY_MS - 1);
  assert.equal(world.sockets.length, 1);
  await world.pass(1);
  assert.equal(world.sockets.length, 2);
  world.socket.close();
  await world.pass(MAX_DELAY_MS / 2);
  world.tell("online");
  assert.equal(world.sockets.length, 3);
});
