/** tests/vectors/resume: a client that had, hears and is sent what a vector says must end as it says. */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import type { Panel } from "../src/panel.ts";
import { patch, plain, World } from "./support.ts";
import type { FakeSocket, Wire } from "./support.ts";

interface Vector {
  name: string;
  had: { heard: Wire[]; seq: number; state: Wire };
  asks: { epoch: string; since: number | "none"; topics?: string[] };
  sent: { recovered: boolean; seq: number | "last"; state?: Wire; messages: Wire[] };
  then?: { messages: Wire[] };
  ends: { events: unknown[]; seq: number | "last"; state: Wire };
}

/** The version that "last" stands for: it depends on the server, so any large one will do. */
const LAST = 1_000_000;
const FOLDER = join(process.cwd(), "..", "..", "tests", "vectors", "resume");

function expand(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(expand);
  if (typeof value !== "object" || value === null) return value;
  if ("$repeat" in value) {
    const [text, count] = value.$repeat as [string, number];
    return text.repeat(count);
  }
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, expand(item)]));
}

const vectors = readdirSync(FOLDER)
  .filter((file) => file.endsWith(".json"))
  .map((file) => expand(JSON.parse(readFileSync(join(FOLDER, file), "utf8"))) as Vector);

/**
 * A client at the point where it has been greeted as the vector says, with the events it has handed on so
 * far.
 */
interface Greeted {
  world: World;
  panel: Panel;
  socket: FakeSocket;
  events: unknown[];
  greet(): void;
}

async function greeted(vector: Vector): Promise<Greeted> {
  const world = new World();
  const panel = world.connect({ topics: vector.asks.topics });
  const events: unknown[] = [];
  panel.on("*", ({ seq, name, payload }) => events.push([seq, name, payload]));
  world.socket
    .greet({ seq: vector.had.seq, state: vector.had.state, epoch: "former" })
    .say(...vector.had.heard);
  assert.equal(world.socket.dropped, null);
  // what makes a client ask for the whole state is a gap
  if (vector.asks.since === "none") world.socket.say(patch(LAST + 2, {}, { prevSeq: LAST + 1 }));
  else world.socket.close();
  await world.pass(1_000);
  const { query } = world.socket;
  assert.equal(world.sockets.length, 2);
  assert.equal(query.get("since"), String(vector.asks.since));
  assert.equal(query.get("epoch"), "former");
  assert.deepEqual(
    /[?&]topics=([^&]*)/.exec(world.socket.url)?.[1] ?? null,
    vector.asks.topics?.map(encodeURIComponent).join(",") ?? null,
  );
  const greet = (): void =>
    void world.socket.greet({
      recovered: vector.sent.recovered,
      seq: vector.sent.seq === "last" ? LAST : vector.sent.seq,
      epoch: vector.asks.epoch === "current" || vector.sent.recovered ? "former" : "current",
      ...(vector.sent.state === undefined ? {} : { state: vector.sent.state }),
    });
  greet();
  return { world, panel, socket: world.socket, events, greet };
}

test("there are vectors", () => assert.ok(vectors.length > 30));

for (const vector of vectors) {
  test(`vector ${vector.name}`, async () => {
    const { world, panel, socket, events } = await greeted(vector);
    socket.say(...vector.sent.messages, { type: "PONG" }, ...(vector.then?.messages ?? []));
    assert.equal(socket.dropped, null);
    assert.equal(panel.status, "live");
    assert.deepEqual(plain(panel.state), plain(vector.ends.state));
    assert.deepEqual(Object.keys(panel.state).sort(), Object.keys(vector.ends.state).sort());
    assert.deepEqual(events, vector.ends.events);
    // the position is not to be seen from outside, but in what the client asks next
    socket.close();
    await world.pass(1_000);
    assert.equal(
      world.socket.query.get("since"),
      String(vector.ends.seq === "last" ? LAST : vector.ends.seq),
    );
  });

  const sent = vector.sent.messages;
  for (let heard = 0; vector.sent.recovered && heard <= sent.length; heard++)
    test(`vector ${vector.name} that is cut off twice behind ${heard} messages`, async () => {
      const { world, panel, events, greet } = await greeted(vector);
      world.socket.say(...sent.slice(0, heard));
      for (let cut = 0; cut < 2; cut++) {
        world.socket.close();
        await world.pass(2_000);
        greet();
      }
      const since = Number(world.socket.query.get("since"));
      world.socket.say(...sent.filter(({ seq }) => Number(seq) > since), { type: "PONG" });
      world.socket.say(...(vector.then?.messages ?? []));
      assert.equal(world.socket.dropped, null);
      assert.deepEqual(plain(panel.state), plain(vector.ends.state));
      assert.deepEqual(events, vector.ends.events);
    });

  const first = vector.sent.messages[0]?.["seq"];
  const rest = vector.sent.messages.filter((message) => message["seq"] !== first);
  if (vector.sent.messages.length > rest.length && rest.length)
    test(`vector ${vector.name} without its first commit is a gap`, async () => {
      const { world, socket } = await greeted(vector);
      socket.say(...rest);
      assert.match(socket.dropped?.reason ?? "nothing", /expected what follows version/);
      await world.pass(2_000);
      assert.equal(world.socket.query.get("since"), "none");
    });
}
