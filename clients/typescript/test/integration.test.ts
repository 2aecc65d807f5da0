/**
 * The client and a real gateway, which tests/clients/test_typescript.py starts. PANELS_CONTROLS is where it
 * takes orders: /token?seconds= and /restart, which is kill -9 and a new start.
 */

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import * as http from "node:http";
import * as net from "node:net";
import { after, test } from "node:test";

import { CallError } from "../src/calls.ts";
import { connect } from "../src/node.ts";
import type { ConnectOptions, Panel } from "../src/panel.ts";
import { plain } from "./support.ts";

const URL_ = process.env["PANELS_URL"] ?? "";
const TOKEN = process.env["PANELS_TOKEN"] ?? "";
const CONTROLS = process.env["PANELS_CONTROLS"] ?? "";
const skip = URL_ ? false : "expected PANELS_URL to name a gateway; run tests/clients/test_typescript.py";
const LIMIT = { timeout: 60_000, skip };

const COUNT = "$state.n = ($state.n ?? 0) + 1; $emit('counted', $state.n); return $state.n;";
const ASK = "$state.asked = true; return await $ext.human.approve('sure?');";

const open: Panel<never>[] = [];
after(() => open.forEach((panel) => panel.close()));

/**
 * One request on a connection of its own: fetch would send it on one that is kept from before the gateway was
 * killed.
 */
function api(method: string, path: string, body?: unknown): Promise<{ [key: string]: unknown }> {
  return new Promise((resolve, reject) => {
    const headers = { Authorization: `Bearer ${TOKEN}` };
    const request = http.request(URL_ + path, { method, headers, agent: false }, (answer) => {
      let text = "";
      answer.setEncoding("utf8").on("data", (part: string) => void (text += part));
      answer.on("error", reject).on("end", () => {
        if ((answer.statusCode ?? 500) < 300) resolve(text ? JSON.parse(text) : {});
        else reject(new Error(`${method} ${path}: ${answer.statusCode} ${text}`));
      });
    });
    request.setTimeout(20_000, () => request.destroy(new Error(`${method} ${path}: no answer in 20 s`)));
    request.on("error", reject).end(body === undefined ? undefined : JSON.stringify(body));
  });
}

async function make(initialState: unknown = {}): Promise<string> {
  const id = `ts-${randomUUID()}`;
  const tools = [
    { name: "count", handler: COUNT },
    { name: "echo", handler: "return $args;" },
    { name: "fail", handler: "throw new Error('no');" },
    { name: "ask", handler: ASK, capabilities: ["state:write:*", "ext:human"] },
  ];
  await api("POST", "/panels", { id, kind: "test", tools, initialState });
  return id;
}

function client(panel: string, options: Partial<ConnectOptions> = {}, url = URL_): Panel {
  const made = connect(url, { panel, token: TOKEN, ...options });
  open.push(made as Panel<never>);
  return made;
}

/** `awaited`, or what the panel's log says where that takes too long. */
function soon<T>(panel: Panel, awaited: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(JSON.stringify(panel.log))), 50_000);
    void awaited.then(resolve, reject).finally(() => clearTimeout(late));
  });
}

/** Resolves once `look` is true; it is looked at whenever the panel says anything. */
function until(panel: Panel, look: () => boolean): Promise<void> {
  return new Promise((resolve) => {
    const check = (): void => {
      if (!look()) return;
      ends.forEach((end) => end());
      resolve();
    };
    const ends = [
      panel.subscribe((state) => state, check),
      panel.onStatus(check),
      panel.onNotice(check),
      panel.on("*", check),
    ];
    check();
  });
}

/** A proxy whose connections can be cut, or stalled so that nothing passes any more. */
class Proxy {
  #server = net.createServer((near) => this.#join(near));
  #pairs = new Set<[net.Socket, net.Socket]>();

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `ws://127.0.0.1:${(this.#server.address() as net.AddressInfo).port}`;
  }

  #join(near: net.Socket): void {
    const far = net.connect(Number(new URL(URL_).port), "127.0.0.1");
    const pair: [net.Socket, net.Socket] = [near, far];
    this.#pairs.add(pair);
    const end = (): void => {
      this.#pairs.delete(pair);
      near.destroy();
      far.destroy();
    };
    for (const [from, to] of [pair, [far, near] as const]) {
      from.pipe(to);
      from.on("close", end).on("error", end);
    }
  }

  cut(): void {
    for (const [near, far] of this.#pairs) (near.destroy(), far.destroy());
  }

  close(): void {
    this.cut();
    this.#server.close();
  }
}

test("state, events, calls and errors", LIMIT, async () => {
  const panel = client(await make({ n: 1, list: ["ä", "😀"] }));
  await panel.ready;
  assert.deepEqual(plain(panel.state), { n: 1, list: ["ä", "😀"] });
  const seen: unknown[] = [];
  panel.subscribe("n", (value) => seen.push(value));
  panel.on("counted", ({ payload, seq }) => seen.push([payload, seq]));
  const counted = await panel.call("count");
  assert.deepEqual([counted.value, counted.seq, seen], [2, 1, [2, [2, 1]]]);
  const args = { text: "x".repeat(70_000), deep: [[[1.5, -0.25, true, null]]] };
  assert.deepEqual((await panel.call("echo", args)).value, args);
  await assert.rejects(panel.call("fail"), (error: CallError) => {
    assert.deepEqual([error.code, error.ran, plain(error.details) !== null], ["EXECUTION_ERROR", true, true]);
    return true;
  });
  await assert.rejects(
    panel.call("nothing"),
    (error: CallError) => error.code === "TOOL_NOT_FOUND" && error.ran === false,
  );
});

test("values that the gateway does not take reject their call", LIMIT, async () => {
  const panel = client(await make());
  let deep: unknown = 1;
  for (let i = 0; i < 100; i++) deep = [deep];
  for (const args of [deep, "\ud800"])
    await assert.rejects(panel.call("echo", args), { code: "PARSE_ERROR" });
  assert.equal(panel.status, "live");
});

test("an optimistic change never flickers", LIMIT, async () => {
  const id = await make({ n: 0 });
  const panel = client(id);
  await panel.ready;
  const shown: number[] = [];
  panel.subscribe("n", (value) => shown.push(Number(value)));
  const add = (): Promise<unknown> =>
    panel.call("count", null, { optimistic: (draft) => void (draft["n"] = Number(draft["n"]) + 1) });
  for (let i = 0; i < 20; i++) await Promise.all([add(), add(), add()]);
  assert.equal(panel.state["n"], 60);
  assert.deepEqual(
    shown,
    Array.from({ length: 60 }, (_, i) => i + 1),
  );
});

test("connections that are cut again and again lose and repeat nothing", LIMIT, async () => {
  const id = await make({ n: 0 });
  const proxy = new Proxy();
  const panel = client(id, {}, await proxy.listen());
  const events: unknown[] = [];
  panel.on("counted", ({ payload }) => events.push(payload));
  await panel.ready;
  for (let round = 0; round < 5; round++) {
    const calls = Array.from({ length: 40 }, () => panel.call<number>("count"));
    // at another place each time: before any answer, between answers, and after the last
    if (round % 4) await calls[round * 3];
    proxy.cut();
    const values = (await Promise.all(calls)).map(({ value }) => value).sort((a, b) => a - b);
    assert.deepEqual(
      values,
      Array.from({ length: 40 }, (_, i) => round * 40 + i + 1),
    );
  }
  await until(panel, () => panel.status === "live");
  assert.deepEqual([panel.state["n"], events], [200, Array.from({ length: 200 }, (_, i) => i + 1)]);
  assert.deepEqual([panel.pending, (await api("GET", `/panels/${id}`))["seq"]], [[], 200]);
  proxy.close();
});

test("a gateway that is killed loses and repeats nothing", LIMIT, async () => {
  const id = await make({ n: 0 });
  const panels = [client(id), client(id)];
  await Promise.all(panels.map(({ ready }) => ready));
  const notices: string[] = [];
  panels[0]!.onNotice((notice) => notices.push(notice));
  const calls = panels.flatMap((panel) => Array.from({ length: 40 }, () => panel.call<number>("count")));
  await Promise.race(calls);
  const restarted = fetch(`${CONTROLS}/restart`);
  const values = (await Promise.all(calls)).map(({ value }) => value).sort((a, b) => a - b);
  await restarted;
  assert.deepEqual(
    values,
    Array.from({ length: 80 }, (_, i) => i + 1),
  );
  for (const panel of panels) await until(panel, () => panel.status === "live" && panel.state["n"] === 80);
  assert.deepEqual(notices, ["recovered"]);
});

test("a token is renewed on the connection before it expires", LIMIT, async () => {
  let asked = 0;
  const mint = async (): Promise<string> => (
    asked++,
    (await fetch(`${CONTROLS}/token?seconds=${asked === 1 ? 4 : 3600}`)).text()
  );
  const panel = client(await make(), { token: mint });
  const statuses: string[] = [];
  panel.onStatus((status) => statuses.push(status));
  await panel.ready;
  await new Promise<void>((resolve) => {
    const look = setInterval(() => {
      if (!panel.log.some(({ what, detail }) => what === "token" && detail === "renewed")) return;
      clearInterval(look);
      resolve();
    }, 20);
  });
  assert.equal((await panel.call("count")).value, 1);
  assert.deepEqual([asked, statuses], [2, ["live"]]);
});

test("refusals are told although the upgrade does not say why", LIMIT, async () => {
  const id = await make();
  const none = client("ts-there-is-none");
  await assert.rejects(soon(none, none.ready), (error: CallError) => /PANEL_NOT_FOUND/.test(error.message));
  const bad = client(id, { token: "a.b.c" });
  await assert.rejects(soon(bad, bad.ready), (error: CallError) => /UNAUTHORIZED/.test(error.message));
  assert.match(bad.reason, /UNAUTHORIZED/);
});

test("a panel that is deleted closes its clients, and one made anew is another one", LIMIT, async () => {
  const id = await make({ n: 1 });
  const panel = client(id);
  await panel.ready;
  await api("DELETE", `/panels/${id}`);
  await until(panel, () => panel.status === "closed");
  assert.match(panel.reason, /deleted/);
});

test("a question is asked, answered once, and its caller hears of it", LIMIT, async () => {
  const id = await make();
  const [caller, other] = [client(id), client(id)];
  await Promise.all([caller.ready, other.ready]);
  const asked = new Promise<{ suspensionId: string; call: number }>((resolve) =>
    other.on("human.asked", ({ payload }) => resolve(payload as never)),
  );
  const progress: string[] = [];
  const call = caller.call("ask", null, {
    onProgress: ({ extension, method }) => progress.push(`${extension}.${method}`),
  });
  const { suspensionId, call: number } = await asked;
  await other.answer(suspensionId, true, number);
  assert.equal((await call).value, true);
  assert.deepEqual(progress, ["human.approve"]);
  await assert.rejects(other.answer(suspensionId, true), (error: CallError) =>
    ["NOT_FOUND", "CONFLICT"].includes(error.code),
  );
});

test("topics bound what is heard", LIMIT, async () => {
  const panel = client(await make({ n: 1 }), { topics: ["event:counted"] });
  await panel.ready;
  const seen: unknown[] = [];
  panel.on("*", ({ payload }) => seen.push(payload));
  await panel.call("count");
  assert.deepEqual([panel.state["n"], seen], [1, [2]]);
});
