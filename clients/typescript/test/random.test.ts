/**
 * Random schedules against a model of the server: whatever is cut, stalled or resumed, every call runs once
 * and settles once, every event is handed on once and in order, or announced as lost, and the state ends as
 * the server's.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import type { Panel } from "../src/panel.ts";
import { event, failure, patch, plain, World } from "./support.ts";
import type { FakeSocket, Wire } from "./support.ts";

/** Mulberry32: the same numbers for the same seed. */
function numbers(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** A panel as docs/protocol.md has it. Each connection has a queue of messages that are on their way. */
class ModelServer {
  state: Wire = {};
  seq = 0;
  epoch = "e0";
  /** What each key was answered, and how often it ran. */
  answers = new Map<string, Wire>();
  runs = new Map<string, number>();
  commits: { seq: number; messages: Wire[] }[] = [];
  queues = new Map<FakeSocket, Wire[]>();
  /** Commits before this version are gone from history. */
  kept = 0;

  constructor(readonly random: () => number) {}

  accept(socket: FakeSocket): void {
    const since = socket.query.get("since");
    const queue: Wire[] = [];
    const at = Number(since);
    const hello = { type: "CONNECTED", panelId: "p", seq: this.seq, epoch: this.epoch, clientId: "x" };
    if (
      since !== null &&
      since !== "none" &&
      socket.query.get("epoch") === this.epoch &&
      at <= this.seq &&
      at >= this.kept
    ) {
      queue.push({ ...hello, recovered: true });
      for (const { seq, messages } of this.commits) if (seq > at) queue.push(...messages);
    } else {
      const state = JSON.parse(JSON.stringify(this.state)) as Wire;
      queue.push({ ...hello, state, ...(since === null ? {} : { recovered: false }) });
    }
    this.queues.set(socket, queue);
    socket.onSent = (message) => this.take(socket, message);
  }

  take(socket: FakeSocket, message: Wire): void {
    const queue = this.queues.get(socket);
    if (queue === undefined) return;
    if (message["type"] === "PING") queue.push({ type: "PONG" });
    if (message["type"] !== "TRIGGER") return;
    const key = String(message["idempotencyKey"]);
    const known = this.answers.get(key);
    const requestId = message["requestId"];
    if (known) return void queue.push({ ...known, requestId });
    // a refusal is no answer: nothing runs, and the key stays unused
    if (this.random() < 0.1) return void queue.push(failure(message, "OVERLOADED", { retryAfterMs: 100 }));
    this.runs.set(key, (this.runs.get(key) ?? 0) + 1);
    const fails = this.random() < 0.1;
    if (!fails)
      this.commit({
        [`k${Math.floor(this.random() * 5)}`]: key,
        total: Number(this.state["total"] ?? 0) + 1,
      });
    const answer = fails
      ? failure(undefined, "EXECUTION_ERROR")
      : { type: "RESULT", seq: this.seq, result: { status: "success", returnValue: this.state["total"] } };
    this.answers.set(key, answer);
    queue.push({ ...answer, requestId });
  }

  commit(set: Wire): void {
    Object.assign(this.state, set);
    this.seq++;
    const events = Math.floor(this.random() * 3);
    const messages = [patch(this.seq, set, events ? { more: true } : {})];
    for (let i = 1; i <= events; i++)
      messages.push(event(this.seq, "at", [this.seq, i], i < events ? { more: true } : {}));
    this.commits.push({ seq: this.seq, messages });
    for (const queue of this.queues.values()) queue.push(...messages);
  }

  recreate(): void {
    for (const socket of this.queues.keys()) socket.close(1012);
    this.queues.clear();
    this.epoch += "'";
    this.seq = this.kept = 0;
    this.state = {};
    this.commits = [];
    this.answers.clear();
  }
}

interface Story {
  world: World;
  server: ModelServer;
  panel: Panel;
  settled: Map<number, number>;
  run(): Promise<void>;
}

function story(seed: number): Story {
  const random = numbers(seed);
  const world = new World();
  const server = new ModelServer(random);
  const stalled = new Set<FakeSocket>();
  const settled = new Map<number, number>();
  let calls = 0;
  world.random = random;
  world.onDial = (socket) => {
    const luck = random();
    if (luck < 0.1) queueMicrotask(() => socket.close(1006));
    else if (luck > 0.15) server.accept(socket); // else it hangs
  };
  const panel = world.connect();
  let lastEvent = "";
  let whole = true;
  let epochs = 0;
  const heard = new Map<string, number>();
  // what a callback throws ends nothing, so it is looked at in the end
  const twice: string[] = [];
  panel.onNotice((notice) => {
    if (notice === "recovered") return;
    whole = false;
    if (notice === "lost") epochs++;
  });
  panel.on("at", ({ payload, seq }) => {
    const name = `${epochs}:${String(seq)}:${JSON.stringify(payload)}`;
    heard.set(name, (heard.get(name) ?? 0) + 1);
    if (heard.get(name) !== 1) twice.push(name);
    lastEvent = name;
  });

  const deliver = (): void => {
    const sockets = [...server.queues].filter(([socket, queue]) => queue.length && !stalled.has(socket));
    const found = sockets[Math.floor(random() * sockets.length)];
    if (found === undefined) return;
    const [socket, queue] = found;
    for (let i = 0; i <= random() * 4; i++) {
      const message = queue.shift();
      if (message) socket.say(message);
    }
  };
  const act = async (): Promise<void> => {
    const luck = random();
    if (luck < 0.5) deliver();
    else if (luck < 0.65) {
      const number = calls++;
      const done = (): void => void settled.set(number, (settled.get(number) ?? 0) + 1);
      const optimistic = random() < 0.5 ? (draft: Wire) => void (draft["guess"] = number) : undefined;
      void panel.call("t", number, { optimistic }).then(done, done);
    } else if (luck < 0.75) server.commit({ other: random() });
    else if (luck < 0.8) {
      const { socket } = world;
      if (server.queues.delete(socket)) socket.close(random() < 0.5 ? 1006 : 1012);
    } else if (luck < 0.82) stalled.add(world.socket);
    else if (luck < 0.83) server.kept = server.seq;
    else if (luck < 0.835) server.recreate();
    else if (luck < 0.85) await world.sleep(random() * 120_000);
    else if (luck < 0.87) world.tell((["wake", "online", "offline"] as const)[Math.floor(random() * 3)]!);
    else await world.pass(random() * 2_000);
  };
  const run = async (): Promise<void> => {
    for (let step = 0; step < 300; step++) await act();
    // from now on all goes well
    stalled.clear();
    world.tell("online");
    world.onDial = (socket) => server.accept(socket);
    for (let step = 0; step < 3_000; step++) {
      for (let i = 0; i < 20; i++) deliver();
      await world.pass(500);
      if (
        panel.status === "live" &&
        !panel.pending.length &&
        ![...server.queues.values()].some((queue) => queue.length)
      )
        break;
    }
    assert.equal(panel.status, "live");
    assert.deepEqual(panel.pending, []);
    assert.deepEqual(plain(panel.state), plain(server.state));
    assert.deepEqual(twice, []);
    for (let number = 0; number < calls; number++) assert.equal(settled.get(number), 1, `call ${number}`);
    for (const [key, times] of server.runs) assert.equal(times, 1, `key ${key}`);
    if (whole) {
      const all = server.commits.flatMap(({ messages }) => messages.filter(({ type }) => type === "EVENT"));
      const names = all.map(
        ({ seq, event: it }) => `0:${String(seq)}:${JSON.stringify((it as Wire)["payload"])}`,
      );
      assert.deepEqual([...heard.keys()].slice(-20), names.slice(names.length - Math.min(20, heard.size)));
      assert.equal(lastEvent, names.at(-1) ?? "");
    }
    assert.equal(
      world.sockets.filter(({ dropped }) => dropped?.reason.includes("follows version")).length,
      0,
    );
    panel.close();
    assert.equal(world.timers, 0);
  };
  return { world, server, panel, settled, run };
}

const SEEDS = Number(process.env["PANELS_CLIENT_SEEDS"] ?? 300);

test(`${SEEDS} random schedules end well`, async () => {
  for (let seed = 1; seed <= SEEDS; seed++)
    await story(seed)
      .run()
      .catch((error: unknown) => {
        throw new Error(`seed ${seed}`, { cause: error });
      });
});
