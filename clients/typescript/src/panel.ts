/** A panel as an application has it: the shell that feeds the core, sets its timer and runs callbacks. */

import type { Pending } from "./calls.ts";
import { Core } from "./core.ts";
import type { Input, Instruction, Result, Status } from "./core.ts";
import type { Json, PanelEvent, Presence, State } from "./messages.ts";
import { record } from "./replica.ts";
import type { Notice } from "./replica.ts";
import { dialer } from "./socket.ts";
import type { Connection, Dial, WebSocketClass } from "./socket.ts";

/**
 * A token, or what gives one: it is called at the start, when the gateway wants another, and before one
 * expires.
 */
export type TokenProvider = string | (() => string | Promise<string>);

export interface ConnectOptions {
  /** The panel's id. */
  panel: string;
  /** Absent if the gateway runs without authentication. */
  token?: TokenProvider | undefined;
  /** The topics to hear instead of `state` and `events`. */
  topics?: readonly string[] | undefined;
  /** How many calls may wait for an answer (256). */
  maxPending?: number | undefined;
  /** How large a call may be, in bytes (1 MiB, like the gateway's `max-frame-bytes`). */
  maxCallBytes?: number | undefined;
  /** The WebSocket to use instead of the platform's own. */
  WebSocket?: WebSocketClass | undefined;
}

export type Draft<T> = T extends readonly (infer Item)[]
  ? Draft<Item>[]
  : T extends object
    ? { -readonly [Key in keyof T]: Draft<T[Key]> }
    : T;

export interface Progress {
  readonly suspensionId: string;
  readonly extension: string;
  readonly method: string;
}

export interface CallOptions<S = State> {
  /** Stops waiting. What was sent may run all the same. */
  signal?: AbortSignal | undefined;
  /** The handler waits for something. */
  onProgress?: ((progress: Progress) => void) | undefined;
  /** What the call is expected to change. It is shown at once, until the call has ended. */
  optimistic?: ((draft: Draft<S>) => void) | undefined;
  /** Runs the tool at this version of the panel only, `panel.seq` for the state that is shown; `CONFLICT` otherwise. */
  expectedSeq?: number | undefined;
}

export interface LogEntry {
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly what: string;
  readonly detail: string;
}

/** Everything of the platform that a panel uses; tests give their own. Times are milliseconds. */
export interface Platform {
  dial: Dial;
  now(): number;
  wallClock(): number;
  random(): number;
  /** Calls back once; the function that comes back prevents it. */
  after(ms: number, callback: () => void): () => void;
  /** Tells of `online`, `offline` and `wake` until the function that comes back is called. */
  watch(tell: (event: "online" | "offline" | "wake") => void): () => void;
}

const LOG_ENTRIES = 256;
/**
 * By how much the wall clock may run ahead of the timers' clock before the machine is taken to have slept.
 */
const SLEPT_MS = 5_000;

type Unsubscribe = () => void;
interface Waiter {
  resolve(result: Result): void;
  reject(error: unknown): void;
  onProgress: ((progress: Progress) => void) | undefined;
  forget(): void;
}

export class Panel<S = State> {
  /**
   * Settled once: when the state is there for the first time, or, with a `CallError`, if it never will be.
   */
  readonly ready: Promise<void>;

  #core: Core;
  #platform: Platform;
  #url: string;
  #token: TokenProvider | undefined;
  #connection: Connection | null = null;
  #flow = 0;
  #queue: Instruction[] = [];
  #draining = false;
  #cancelTimer = (): void => {};
  #rings = Infinity;
  #unwatch: () => void;
  #slept: number;
  #lastId = 0;
  #waiters = new Map<string, Waiter>();
  #subscribers = new Set<() => void>();
  #onEvent = new Set<[name: string, callback: (event: PanelEvent) => void]>();
  #onStatus = new Set<[callback: (status: Status) => void]>();
  #onPresence = new Set<[callback: (presence: Presence) => void]>();
  #onNotice = new Set<[callback: (notice: Notice) => void]>();
  #log: LogEntry[] = [];
  #becomeReady!: () => void;
  #neverReady!: (error: unknown) => void;

  /** Use `connect`. */
  constructor(url: string, options: ConnectOptions, platform: Platform) {
    const { panel, token, maxPending = 256, maxCallBytes = 1024 * 1024 } = options;
    this.#platform = platform;
    this.#url = url;
    this.#token = token;
    const kind = token === undefined ? "none" : typeof token === "string" ? "fixed" : "renewable";
    this.#core = new Core({ panel, token: kind, maxPending, maxCallBytes }, platform.random);
    this.ready = new Promise((resolve, reject) => {
      this.#becomeReady = resolve;
      this.#neverReady = reject;
    });
    this.ready.catch(() => {}); // whoever does not look at it is not to be ended by it
    this.#slept = platform.wallClock() - platform.now();
    this.#unwatch = platform.watch((kind) => this.#feed({ kind }));
    this.#feed({ kind: "start" });
  }

  /** The state: frozen, and another object whenever it has changed. Empty until `ready`. */
  get state(): S {
    return this.#core.replica.shown as S;
  }

  get status(): Status {
    return this.#core.status;
  }

  /**
   * Who watches the panel: empty until that was heard, which takes the topic `presence` and a panel whose definition
   * has it.
   */
  get presence(): Presence {
    return this.#core.presence;
  }

  /** The version up to which everything was heard; with topics, the last one that concerned them. */
  get seq(): number {
    return this.#core.replica.position;
  }

  /** Why `status` is `closed`; empty otherwise. */
  get reason(): string {
    return this.#core.reason;
  }

  /** The calls and answers that have no answer yet, oldest first. */
  get pending(): readonly Pending[] {
    return this.#core.calls.pending;
  }

  /** The last 256 things that happened to the connection, oldest first. No tokens or values are in it. */
  get log(): readonly LogEntry[] {
    return [...this.#log];
  }

  /**
   * Calls back whenever what `selector` gives has changed; that is another object, and not another content. A
   * string selects the value of that key. The function that comes back ends it.
   */
  subscribe<K extends keyof S & string>(
    selector: K,
    callback: (value: S[K] | undefined, before: S[K] | undefined) => void,
  ): Unsubscribe;
  subscribe<T>(selector: (state: S) => T, callback: (value: T, before: T) => void): Unsubscribe;
  subscribe(
    selector: string | ((state: S) => unknown),
    callback: (value: never, before: never) => void,
  ): Unsubscribe {
    const { replica } = this.#core;
    const select = (): unknown => {
      if (typeof selector === "string") return replica.value(selector);
      const chosen = selector(replica.live as S);
      return chosen === replica.live ? this.state : chosen;
    };
    let last = select();
    const look = (): void => {
      const before = last;
      this.#guard(() => void (last = select()));
      if (!Object.is(last, before)) this.#guard(() => callback(last as never, before as never));
    };
    this.#subscribers.add(look);
    return () => void this.#subscribers.delete(look);
  }

  /** Calls back for each event of this name, or, with a `*` at the end, of a name that begins so. */
  on(eventName: string, callback: (event: PanelEvent) => void): Unsubscribe {
    return register(this.#onEvent, [eventName, callback]);
  }

  /** Calls back whenever the status has changed. */
  onStatus(callback: (status: Status) => void): Unsubscribe {
    return register(this.#onStatus, [callback]);
  }

  /** Calls back whenever somebody has come or gone; see `presence`. */
  onPresence(callback: (presence: Presence) => void): Unsubscribe {
    return register(this.#onPresence, [callback]);
  }

  /** Calls back after each reconnection, once the state is there. */
  onNotice(callback: (notice: Notice) => void): Unsubscribe {
    return register(this.#onNotice, [callback]);
  }

  /**
   * Runs a tool, once, however often the connection is lost. Rejects with a `CallError`; with the signal's
   * reason; with what `optimistic` throws; and with a `TypeError` if `args` is no JSON.
   */
  call<T = Json>(tool: string, args?: unknown, options: CallOptions<S> = {}): Promise<Result<T>> {
    const { signal, onProgress, optimistic, expectedSeq } = options;
    return this.#wait<T>(signal, onProgress, (id) => {
      if (typeof args === "function" || typeof args === "symbol")
        throw new TypeError(`expected args to be JSON, got a ${typeof args}`);
      const key = randomKey();
      const text = JSON.stringify({ type: "TRIGGER", tool, args, requestId: id, idempotencyKey: key, expectedSeq });
      const overlay = optimistic ? record(this.#core.replica.shown, optimistic as never) : null;
      return { kind: "call", id, what: tool, key, text, overlay };
    });
  }

  /**
   * Answers a question of a handler that waits. Rejects with a `CallError`, CONFLICT if somebody else was
   * first.
   */
  answer(suspensionId: string, value: unknown, call?: number): Promise<void> {
    return this.#wait<Json>(undefined, undefined, (id) => {
      const text = JSON.stringify({
        type: "ANSWER",
        suspensionId,
        value: value ?? null,
        call,
        requestId: id,
      });
      return { kind: "call", id, what: suspensionId, key: randomKey(), text, overlay: null };
    }).then(() => {});
  }

  /** Ends it. Calls that wait are rejected, and nothing is called back but `status`. Idempotent. */
  close(): void {
    this.#feed({ kind: "close" });
  }

  // -- inside --------------------------------------------------------------------------------------

  #wait<T>(
    signal: AbortSignal | undefined,
    onProgress: ((progress: Progress) => void) | undefined,
    input: (id: string) => Input,
  ): Promise<Result<T>> {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const id = `c${++this.#lastId}`;
      const made = input(id);
      const abort = (): void => {
        this.#waiters.delete(id);
        reject(signal?.reason);
        this.#feed({ kind: "forget", id });
      };
      signal?.addEventListener("abort", abort, { once: true });
      const forget = (): void => signal?.removeEventListener("abort", abort);
      this.#waiters.set(id, { resolve: resolve as (result: never) => void, reject, onProgress, forget });
      this.#feed(made);
    });
  }

  #feed(input: Input): void {
    this.#queue.push(...this.#core.handle(input, this.#platform.now()));
    // a callback that calls back in: what it causes comes after what is under way
    if (this.#draining) return;
    this.#draining = true;
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) this.#run(next);
    this.#draining = false;
    this.#arm();
  }

  #run(instruction: Instruction): void {
    switch (instruction.kind) {
      case "ask":
        return this.#askForToken(instruction.ask);
      case "open":
        return this.#open(instruction);
      case "send":
        // a socket that is closing takes nothing; what was meant for it is sent again on the next one
        if (instruction.flow === this.#flow) attempt(() => this.#connection?.send(instruction.text));
        return;
      case "drop":
        if (instruction.flow === this.#flow) this.#drop(instruction.code, instruction.reason);
        return;
      case "changed":
        for (const look of [...this.#subscribers]) if (this.#subscribers.has(look)) look();
        return;
      case "event":
        for (const [wanted, callback] of [...this.#onEvent])
          if (matches(wanted, instruction.event.name)) this.#guard(() => callback(instruction.event));
        return;
      case "status":
        if (instruction.status === "live") this.#becomeReady();
        if (instruction.status === "closed") this.#ended();
        for (const [callback] of [...this.#onStatus]) this.#guard(() => callback(instruction.status));
        return;
      case "presence":
        for (const [callback] of [...this.#onPresence]) this.#guard(() => callback(this.presence));
        return;
      case "notice":
        for (const [callback] of [...this.#onNotice]) this.#guard(() => callback(instruction.notice));
        return;
      case "progress": {
        const { id, suspensionId, extension, method } = instruction;
        this.#guard(() => this.#waiters.get(id)?.onProgress?.({ suspensionId, extension, method }));
        return;
      }
      case "settle": {
        const waiter = this.#waiters.get(instruction.id);
        this.#waiters.delete(instruction.id);
        waiter?.forget();
        if (instruction.error) waiter?.reject(instruction.error);
        else waiter?.resolve(instruction.result);
        return;
      }
      case "log":
        return this.#note(instruction.what, instruction.detail);
    }
  }

  #askForToken(ask: number): void {
    const token = this.#token;
    const failed = (reason: unknown): void =>
      this.#feed({ kind: "tokenFailed", ask, reason: `the token provider failed: ${String(reason)}` });
    const take = (value: unknown): void => {
      // it has to fit among the subprotocols of an upgrade, as every JWT does
      if (typeof value === "string" && /^[\w.~+/=-]+$/.test(value))
        this.#feed({ kind: "token", ask, token: value });
      else failed(`expected a token, got ${typeof value}`);
    };
    if (typeof token !== "function") return take(token);
    new Promise((resolve) => resolve(token())).then(take, failed);
  }

  #open({ flow, resume, token }: Extract<Instruction, { kind: "open" }>): void {
    this.#drop(1000, "");
    this.#flow = flow;
    const query = resume ? `epoch=${encodeURIComponent(resume.epoch)}&since=${resume.since}` : "";
    const url = [this.#url, query].filter(Boolean).join(this.#url.includes("?") ? "&" : "?");
    try {
      this.#connection = this.#platform.dial(url, token, {
        message: (data) => this.#feed({ kind: "message", flow, data }),
        closed: (code, reason) => this.#feed({ kind: "closed", flow, code, reason }),
        refused: (code, reason, retryAfterMs) =>
          this.#feed({ kind: "refused", flow, code, reason, retryAfterMs }),
      });
    } catch (error) {
      this.#feed({ kind: "closed", flow, code: 1006, reason: `cannot connect: ${String(error)}` });
    }
  }

  #drop(code: number, reason: string): void {
    const connection = this.#connection;
    this.#connection = null;
    attempt(() => connection?.drop(code, reason));
  }

  #ended(): void {
    this.#unwatch();
    this.#drop(1000, "");
    this.#neverReady(this.#core.closedError(false));
  }

  #arm(): void {
    const { deadline } = this.#core;
    // a timer that rings too early does no harm, and most messages only put off what is due
    if (this.#rings <= deadline && deadline < Infinity) return;
    this.#cancelTimer();
    this.#rings = deadline;
    if (deadline < Infinity)
      this.#cancelTimer = this.#platform.after(Math.max(0, deadline - this.#platform.now()), () => this.#fire());
  }

  #fire(): void {
    this.#rings = Infinity;
    const slept = this.#platform.wallClock() - this.#platform.now();
    const woke = slept > this.#slept + SLEPT_MS;
    this.#slept = slept;
    this.#feed({ kind: woke ? "wake" : "tick" });
  }

  /** Runs a callback of the application. What it throws is its own affair, and ends nothing. */
  #guard(callback: () => void): void {
    try {
      callback();
    } catch (error) {
      this.#note("callback", String(error));
      console.error("@panels/client: a callback threw", error);
    }
  }

  #note(what: string, detail: string): void {
    this.#log.push({ at: this.#platform.wallClock(), what, detail });
    if (this.#log.length > LOG_ENTRIES) this.#log.shift();
  }
}

/**
 * A panel at the gateway `url` (`ws`, `wss`, `http` or `https`). It comes back at once and connects by
 * itself; `ready` tells when the state is there. Throws a `TypeError` for arguments that can never work.
 */
export function connect<S = State>(url: string, options: ConnectOptions): Panel<S> {
  const WebSocket = options.WebSocket ?? (globalThis.WebSocket as unknown as WebSocketClass | undefined);
  if (WebSocket === undefined)
    throw new TypeError("expected a WebSocket: give one as WebSocket");
  return new Panel<S>(target(url, options), options, platform(dialer(WebSocket)));
}

/** Where the panel's WebSocket is. Throws a `TypeError`. */
export function target(url: string, { panel, topics }: ConnectOptions): string {
  const base = new URL(url);
  const protocol = base.protocol.replace("http", "ws");
  if (protocol !== "ws:" && protocol !== "wss:")
    throw new TypeError(`expected a URL of ws or http, got ${base.protocol}`);
  if (!/^[\w.:-]{1,128}$/.test(panel))
    throw new TypeError(`expected a panel's id, got ${JSON.stringify(panel)}`);
  const query = topics ? `?topics=${topics.map(encodeURIComponent).join(",")}` : "";
  return `${protocol}//${base.host}${base.pathname.replace(/\/$/, "")}/panels/${panel}/ws${query}`;
}

function platform(dial: Dial): Platform {
  return {
    dial,
    now: () => performance.now(),
    wallClock: () => Date.now(),
    random: Math.random,
    after: (ms, callback) => {
      const timer = setTimeout(callback, ms);
      return () => clearTimeout(timer);
    },
    watch: (tell) => {
      if (typeof addEventListener !== "function") return () => {};
      const stop = new AbortController();
      const { signal } = stop;
      addEventListener("online", () => tell("online"), { signal });
      addEventListener("offline", () => tell("offline"), { signal });
      addEventListener("pageshow", () => tell("wake"), { signal });
      if (typeof document === "object")
        document.addEventListener("visibilitychange", () => document.hidden || tell("wake"), { signal });
      return () => stop.abort();
    },
  };
}

function register<T>(all: Set<T>, entry: T): Unsubscribe {
  all.add(entry);
  return () => void all.delete(entry);
}

function matches(wanted: string, name: string): boolean {
  return wanted === name || (wanted.endsWith("*") && name.startsWith(wanted.slice(0, -1)));
}

/**
 * A random key of 128 bits. `crypto.randomUUID` is there in secure contexts only, and a page of a local network may
 * be in none.
 */
function randomKey(): string {
  return crypto.getRandomValues(new Uint32Array(4)).join("-");
}

function attempt(action: () => void): void {
  try {
    action();
  } catch {
    // the socket's own close tells what happened
  }
}
