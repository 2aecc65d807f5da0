/** The shell around a WebSocket: what it dials with, hands on, and finds out about refusals. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { dialer } from "../src/socket.ts";
import type { WebSocketLike } from "../src/socket.ts";

class Recorded implements WebSocketLike {
  static last: Recorded;
  onopen: ((event: never) => void) | null = null;
  onmessage: ((event: never) => void) | null = null;
  onclose: ((event: never) => void) | null = null;
  onerror: ((event: never) => void) | null = null;
  sent: string[] = [];
  closed: unknown[] = [];

  constructor(
    readonly url: string,
    readonly protocols: string[],
  ) {
    Recorded.last = this;
  }

  send(text: string): void {
    this.sent.push(text);
  }

  close(...why: unknown[]): void {
    this.closed.push(why);
  }
}

function dial(token: string | null): {
  told: unknown[];
  connection: ReturnType<ReturnType<typeof dialer>>;
  socket: Recorded;
} {
  const told: unknown[] = [];
  const connection = dialer(Recorded)("ws://h:1/base/panels/p/ws?since=none", token, {
    message: (data) => told.push(data),
    closed: (code, reason) => told.push([code, reason]),
    refused: (...why) => told.push(why),
  });
  return { told, connection, socket: Recorded.last };
}

test("the token is among the subprotocols, and messages are handed on", () => {
  const { told, connection, socket } = dial("a.b.c");
  assert.deepEqual(socket.protocols, ["panels.v1", "bearer.a.b.c"]);
  assert.deepEqual(dial(null).socket.protocols, ["panels.v1"]);
  socket.onopen?.({} as never);
  socket.onmessage?.({ data: "x" } as never);
  connection.send("y");
  assert.deepEqual([told, socket.sent], [["x"], ["y"]]);
});

test("an end after the open is told as it is", async (t) => {
  const fetched = t.mock.method(globalThis, "fetch", () => assert.fail("expected no request"));
  const { told, socket } = dial(null);
  socket.onopen?.({} as never);
  await (socket.onclose as unknown as (event: unknown) => Promise<void>)({ code: 1006, reason: "" });
  assert.deepEqual([told, fetched.mock.callCount()], [[[1006, ""]], 0]);
});

test("an upgrade that ends with nothing but an error has ended", async (t) => {
  t.mock.method(globalThis, "fetch", () => Promise.reject(new TypeError("nobody answers")));
  const { told, socket } = dial(null);
  socket.onerror?.({} as never);
  socket.onclose?.({ code: 1006, reason: "told again" } as never);
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(told, [[1006, ""]]);
});

test("an error after the open waits for the close that says more", () => {
  const { told, socket } = dial(null);
  socket.onopen?.({} as never);
  socket.onerror?.({} as never);
  socket.onclose?.({ code: 4404, reason: "deleted" } as never);
  assert.deepEqual(told, [[4404, "deleted"]]);
});

test("a connection that was dropped tells nothing, and its reason fits a browser", () => {
  const { connection, socket } = dial(null);
  connection.drop(4000, "é".repeat(500));
  assert.deepEqual(socket.closed, [[4000, "?".repeat(120)]]);
  assert.deepEqual([socket.onclose, socket.onmessage], [null, null]);
});

for (const [name, answer, told] of [
  [
    "says why",
    () => Response.json({ error: { code: "FORBIDDEN", message: "no" } }, { status: 403 }),
    ["FORBIDDEN", "no", 0],
  ],
  [
    "says when",
    () =>
      Response.json(
        { error: { code: "RATE_LIMITED", message: "m" } },
        { status: 429, headers: { "Retry-After": "3" } },
      ),
    ["RATE_LIMITED", "m", 3_000],
  ],
  ["is fine", () => Response.json({}), [1006, ""]],
  ["is no JSON", () => new Response("<html>", { status: 502 }), [1006, ""]],
  ["is JSON of somebody else", () => Response.json({ message: "not found" }, { status: 404 }), [1006, ""]],
  ["does not come", () => Promise.reject(new TypeError("fetch failed")), [1006, ""]],
] as [string, () => Response | Promise<Response>, unknown[]][])
  test(`a refused upgrade is asked about over HTTP, whose answer ${name}`, async (t) => {
    const fetched = t.mock.method(globalThis, "fetch", async () => answer());
    const { told: heard, socket } = dial("a.b.c");
    await (socket.onclose as unknown as (event: unknown) => Promise<void>)({ code: 1006, reason: "" });
    assert.deepEqual(heard, [told]);
    const [url, options] = fetched.mock.calls[0]?.arguments as unknown as [string, RequestInit];
    assert.equal(url, "http://h:1/base/panels/p");
    assert.deepEqual(options.headers, { Authorization: "Bearer a.b.c" });
  });
