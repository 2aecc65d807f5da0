/** A platform in memory: a clock that tests turn, and sockets whose other end is the test. */

import { Panel, target } from "../src/panel.ts";
import type { ConnectOptions, Platform } from "../src/panel.ts";
import type { State } from "../src/messages.ts";
import type { Listener } from "../src/socket.ts";

export type Wire = { [key: string]: unknown };

/** The server's end of one connection. */
export class FakeSocket {
  sent: Wire[] = [];
  /** Set once the client has given it up. */
  dropped: { code: number; reason: string } | null = null;
  onSent: ((message: Wire) => void) | null = null;

  constructor(
    readonly url: string,
    readonly token: string | null,
    readonly listener: Listener,
  ) {}

  get query(): URLSearchParams {
    return new URL(this.url).searchParams;
  }

  say(...messages: (Wire | string)[]): this {
    for (const message of messages)
      this.listener.message(typeof message === "string" ? message : JSON.stringify(message));
    return this;
  }

  greet(fields: Wire = {}): this {
    const recovered = fields["recovered"] === true;
    return this.say({
      type: "CONNECTED",
      panelId: "p",
      seq: 0,
      epoch: "e",
      clientId: "x",
      ...(recovered ? {} : { state: {} }),
      ...fields,
    });
  }

  close(code = 1006, reason = ""): void {
    this.listener.closed(code, reason);
  }

  of(type: string): Wire[] {
    return this.sent.filter((message) => message["type"] === type);
  }
}

export class World {
  time = 1_000;
  /** What the wall clock shows beyond `time`: grows while the machine sleeps. */
  slept = 0;
  sockets: FakeSocket[] = [];
  random = (): number => 0.5;
  onDial: ((socket: FakeSocket) => void) | null = null;
  tell: (event: "online" | "offline" | "wake") => void = () => {};
  watched = 0;
  #timers = new Map<number, { at: number; callback: () => void }>();
  #lastTimer = 0;

  readonly platform: Platform = {
    dial: (url, token, listener) => {
      const socket = new FakeSocket(url, token, listener);
      this.sockets.push(socket);
      this.onDial?.(socket);
      return {
        send: (text) => {
          if (socket.dropped) throw new Error("the socket is closed");
          const message = JSON.parse(text) as Wire;
          socket.sent.push(message);
          socket.onSent?.(message);
        },
        drop: (code, reason) => void (socket.dropped = { code, reason }),
      };
    },
    now: () => this.time,
    wallClock: () => this.time + this.slept,
    random: () => this.random(),
    after: (ms, callback) => {
      const id = ++this.#lastTimer;
      this.#timers.set(id, { at: this.time + ms, callback });
      return () => void this.#timers.delete(id);
    },
    watch: (tell) => {
      this.tell = tell;
      this.watched++;
      return () => void this.watched--;
    },
  };

  connect<S = State>(options: Partial<ConnectOptions> = {}): Panel<S> {
    const all = { panel: "p", ...options };
    return new Panel<S>(target("ws://gateway", all), all, this.platform);
  }

  get socket(): FakeSocket {
    const last = this.sockets.at(-1);
    if (last === undefined) throw new Error("expected a connection, got none");
    return last;
  }

  get timers(): number {
    return this.#timers.size;
  }

  /** Lets so much time pass, timer by timer, and lets promises settle in between. */
  async pass(ms: number): Promise<void> {
    const end = this.time + ms;
    for (;;) {
      await settle();
      const next = [...this.#timers].sort(([, a], [, b]) => a.at - b.at)[0];
      if (next === undefined || next[1].at > end) break;
      this.#timers.delete(next[0]);
      this.time = Math.max(this.time, next[1].at);
      next[1].callback();
    }
    this.time = end;
  }

  /** The time passes while no timer can run; then those that are due do. */
  async sleep(ms: number, { clockRuns = true } = {}): Promise<void> {
    if (clockRuns) this.time += ms;
    else this.slept += ms;
    await this.pass(0);
  }
}

/** Lets all promises that can settle do so. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await Promise.resolve();
}

export function patch(seq: number, set: Wire, more: Wire = {}): Wire {
  const mutations = Object.entries(set).map(([key, value]) =>
    value === undefined ? { op: "delete", key } : { op: "set", key, value },
  );
  return { type: "PATCH", mutations, seq, ...more };
}

export function event(seq: number, name: string, payload: unknown = null, more: Wire = {}): Wire {
  return { type: "EVENT", event: { name, payload, timestamp: 1 }, seq, ...more };
}

export function result(to: Wire | undefined, seq: number, returnValue: unknown = null): Wire {
  return { type: "RESULT", requestId: to?.["requestId"], seq, result: { status: "success", returnValue } };
}

export function failure(to: Wire | undefined, code: string, more: Wire = {}): Wire {
  return { type: "ERROR", requestId: to?.["requestId"], code, message: "no", ...more };
}

/** What a promise has come to by now. */
export async function outcome(
  promise: Promise<unknown>,
): Promise<{ value: unknown } | { error: unknown } | null> {
  let found: { value: unknown } | { error: unknown } | null = null;
  promise.then(
    (value) => (found = { value }),
    (error: unknown) => (found = { error }),
  );
  await settle();
  return found;
}

/** A copy with ordinary prototypes, for comparisons. */
export function plain(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value));
}
