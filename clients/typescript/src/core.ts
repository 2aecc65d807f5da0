/**
 * A client's connection to one panel: events and the time in, instructions out. It holds every rule; no
 * socket, timer, clock, random source or callback is in here.
 *
 *     phase     leaves by
 *     idle      start → token
 *     token     a token → opening; none, or none in time → waiting
 *     opening   CONNECTED → live or catching; closed, refused, nothing in time → waiting, token or closed
 *     catching  the PONG behind what was missed → live
 *     live      closed, silent, a violation → waiting, token or closed
 *     waiting   its time, online, wake → token or opening
 *     closed    never
 *
 * Each attempt to connect is a *flow* with a number of its own. What comes from another flow than the present
 * one is late, and dropped.
 */

import { CallError, Calls } from "./calls.ts";
import type { Bounds } from "./calls.ts";
import { advice, course, courseOfRefusal, delay, MAX_DELAY_MS } from "./closing.ts";
import type { Course } from "./closing.ts";
import { decode, expect, Violation } from "./messages.ts";
import type { Json, Message, PanelEvent, Presence } from "./messages.ts";
import { Replica } from "./replica.ts";
import type { Notice, Overlay } from "./replica.ts";

export type Status = "connecting" | "live" | "reconnecting" | "closed";
type Phase = "idle" | "token" | "opening" | "catching" | "live" | "waiting" | "closed";

/** The answer to a call. */
export interface Result<T = Json> {
  /** What the handler returned. */
  readonly value: T;
  /** The panel's version by then. */
  readonly seq: number;
  /** The idempotency key of the call. */
  readonly key: string;
  /** The ExecutionResult, as docs/protocol.md describes it. */
  readonly body: { readonly [key: string]: Json };
}

export interface Settings extends Bounds {
  readonly panel: string;
  /** Whether there is a token at all, and whether asking for it again may bring another one. */
  readonly token: "none" | "fixed" | "renewable";
}

export type Input =
  | { kind: "start" }
  | { kind: "token"; ask: number; token: string }
  | { kind: "tokenFailed"; ask: number; reason: string }
  | { kind: "message"; flow: number; data: unknown }
  | { kind: "refused"; flow: number; code: string; reason: string; retryAfterMs: number }
  | { kind: "closed"; flow: number; code: number; reason: string }
  /** A TRIGGER or an ANSWER; see `Pending` for `what` and `key`. */
  | { kind: "call"; id: string; what: string; key: string; text: string; overlay: Overlay | null }
  | { kind: "forget"; id: string }
  /** The machine may have slept, or the page has come to the front: see at once whether the socket lives. */
  | { kind: "wake" }
  | { kind: "online" }
  | { kind: "offline" }
  | { kind: "tick" }
  | { kind: "close" };

export type Instruction =
  /** Ask the provider; the answer comes as `token` or `tokenFailed` with the same number. */
  | { kind: "ask"; ask: number }
  | { kind: "open"; flow: number; resume: { epoch: string; since: string } | null; token: string | null }
  | { kind: "send"; flow: number; text: string }
  | { kind: "drop"; flow: number; code: number; reason: string }
  | { kind: "status"; status: Status }
  | { kind: "changed" }
  | { kind: "presence" }
  | { kind: "event"; event: PanelEvent }
  | { kind: "notice"; notice: Notice }
  | { kind: "progress"; id: string; suspensionId: string; extension: string; method: string }
  | { kind: "settle"; id: string; result: null; error: CallError }
  | { kind: "settle"; id: string; result: Result; error: null }
  | { kind: "log"; what: string; detail: string };

export const OPEN_TIMEOUT_MS = 15_000;
export const TOKEN_TIMEOUT_MS = 30_000;
/** Silence after which PING is sent, and how long PONG, or anything else, may take. */
export const PING_AFTER_MS = 25_000;
export const PONG_TIMEOUT_MS = 10_000;
/** The same after sleep, when the socket is more likely dead than not. */
export const WAKE_TIMEOUT_MS = 5_000;
/**
 * A timer that is later than this says nothing about the server: the machine slept, or the page's timers were
 * held.
 */
const LATE_MS = 5_000;
/** A connection that lived for so long was good: the next wait is the first one again. */
const STABLE_MS = 5_000;
/** How many tokens in a row may be refused before the client stops. */
const MAX_REFUSED_TOKENS = 3;
const REFRESH_AGAIN_MS = 10_000;
const DROPPED = 4000;
const PING = '{"type":"PING"}';
const REFRESH_ID = "refresh";

export class Core {
  readonly replica = new Replica();
  readonly calls: Calls;
  /** Who watches, as far as was heard last. */
  presence: Presence = { clients: 0, subjects: {} };
  /** Why the client is closed; empty while it is not. */
  reason = "";

  #settings: Settings;
  #random: () => number;
  #out: Instruction[] = [];
  #phase: Phase = "idle";
  #status: Status = "connecting";
  #flow = 0;
  #ask = 0;
  #token: string | null = null;
  #refusedTokens = 0;
  #attempt = 0;
  #offline = false;
  #wasLive = false;
  #liveAt = 0;
  #heardAt = 0;
  /** Until when anything has to be heard; null while nothing was asked. */
  #pongBy: number | null = null;
  #late = false;
  /** When the phase `token`, `opening` or `waiting` is over. */
  #until = 0;
  /**
   * When to ask for a token to renew the connection with, and until when one that was asked for may come; Infinity if
   * neither.
   */
  #refreshAt = Infinity;
  #refreshBy = Infinity;

  constructor(settings: Settings, random: () => number) {
    this.#settings = settings;
    this.#random = random;
    this.calls = new Calls(settings);
  }

  get status(): Status {
    return this.#status;
  }

  /** When `tick` is due, in the same milliseconds as `now`; Infinity while nothing waits for a time. */
  get deadline(): number {
    switch (this.#phase) {
      case "idle":
      case "closed":
        return Infinity;
      case "token":
      case "opening":
      case "waiting":
        return this.#until;
      default:
        return Math.min(
          this.#pongBy ?? this.#heardAt + PING_AFTER_MS,
          this.#refreshAt,
          this.#refreshBy,
          this.calls.deadline,
        );
    }
  }

  /** What is to be done, in this order. The state is already what it will be when the first of it is done. */
  handle(input: Input, now: number): Instruction[] {
    if (this.#phase !== "closed") this.#take(input, now);
    else if (input.kind === "call") this.#fail(input.id, this.closedError(false));
    const out = this.#out;
    this.#out = [];
    return out;
  }

  #take(input: Input, now: number): void {
    switch (input.kind) {
      case "start":
        return this.#begin(now);
      case "token":
        return this.#gotToken(input.ask, input.token, now);
      case "tokenFailed":
        if (input.ask === this.#ask) this.#noToken(input.reason, now);
        return;
      case "message":
        if (input.flow === this.#flow) this.#heard(input.data, now);
        return;
      case "closed":
        if (input.flow !== this.#flow) return;
        this.#log("closed", `${input.code} ${input.reason}`);
        if (input.code === 1009) this.#tooLarge();
        return this.#end(
          course(input.code),
          input.reason || `closed with ${input.code}`,
          advice(input.code, input.reason),
          now,
        );
      case "refused":
        if (input.flow !== this.#flow) return;
        this.#log("refused", `${input.code} ${input.reason}`);
        return this.#end(
          courseOfRefusal(input.code),
          `${input.code}: ${input.reason}`,
          input.retryAfterMs,
          now,
        );
      case "call":
        return this.#keep(input, now);
      case "forget":
        this.calls.remove(input.id);
        this.#uncover(input.id);
        return;
      case "online":
      case "wake":
        if (input.kind === "online") this.#offline = false;
        return this.#wake(now);
      case "offline":
        this.#offline = true;
        return this.#wake(now);
      case "tick":
        return this.#tick(now);
      case "close":
        this.#emit({ kind: "drop", flow: this.#flow, code: 1000, reason: "" });
        return this.#stop("close() was called");
    }
  }

  // -- connecting ----------------------------------------------------------------------------------

  #begin(now: number): void {
    if (this.#settings.token === "none" || this.#token !== null) return this.#open(now);
    this.#phase = "token";
    this.#until = now + TOKEN_TIMEOUT_MS;
    this.#emit({ kind: "ask", ask: ++this.#ask });
  }

  #gotToken(ask: number, token: string, now: number): void {
    if (ask !== this.#ask) return;
    this.#token = token;
    if (this.#phase === "token") this.#open(now);
    else if (this.#refreshBy < Infinity) {
      this.#refreshBy = Infinity;
      this.#send(JSON.stringify({ type: "REFRESH", token, requestId: REFRESH_ID }));
    }
  }

  #noToken(reason: string, now: number): void {
    this.#log("token", reason);
    this.#ask++; // what comes after all is late
    if (this.#phase === "token") this.#wait(0, now);
    else if (this.#refreshBy < Infinity) {
      this.#refreshBy = Infinity;
      this.#refreshAt = now + REFRESH_AGAIN_MS;
    }
  }

  #open(now: number): void {
    this.#phase = "opening";
    this.#until = now + OPEN_TIMEOUT_MS;
    this.#emit({ kind: "open", flow: ++this.#flow, resume: this.replica.asks(), token: this.#token });
  }

  /** The end of a connection, or of an attempt. */
  #end(how: Course, reason: string, afterMs: number, now: number): void {
    if (how === "stop") return this.#stop(reason);
    if (how === "refresh") {
      if (this.#settings.token !== "renewable" || ++this.#refusedTokens > MAX_REFUSED_TOKENS)
        return this.#stop(reason);
      this.#token = null;
    }
    this.#wait(afterMs, now);
  }

  #wait(afterMs: number, now: number): void {
    // a restart that the gateway told of is no failure
    if (this.#connected && (afterMs || now - this.#liveAt >= STABLE_MS)) this.#attempt = 0;
    this.#phase = "waiting";
    this.#flow++;
    this.#pongBy = null;
    this.#refreshAt = this.#refreshBy = Infinity;
    this.#ask++;
    const wait = this.#offline ? MAX_DELAY_MS : delay(this.#attempt, this.#random());
    this.#attempt++;
    this.#until = now + Math.max(wait, Math.min(afterMs, 2 * MAX_DELAY_MS));
    this.#report(this.#wasLive ? "reconnecting" : "connecting");
  }

  /** Gives the present connection up, for a reason of the client's. */
  #drop(reason: string, now: number): void {
    this.#log("dropped", reason);
    this.#emit({ kind: "drop", flow: this.#flow, code: DROPPED, reason });
    this.#wait(0, now);
  }

  #stop(reason: string): void {
    this.#phase = "closed";
    this.#flow++;
    this.reason = reason;
    this.#log("stopped", reason);
    for (const id of this.calls.ids) {
      const sent = this.calls.remove(id)?.sends ?? 0;
      this.#fail(id, this.closedError(sent ? null : false));
    }
    this.#report("closed");
  }

  /** What calls end with once the client is closed. */
  closedError(ran: boolean | null): CallError {
    return new CallError("CLOSED", `the panel is closed: ${this.reason}`, { reason: this.reason }, ran);
  }

  // -- hearing -------------------------------------------------------------------------------------

  get #connected(): boolean {
    return this.#phase === "live" || this.#phase === "catching";
  }

  #heard(data: unknown, now: number): void {
    this.#heardAt = now;
    this.#pongBy = null;
    this.#late = false;
    try {
      const message = decode(data);
      if (message === null) this.#log("ignored", "an unknown type");
      else this.#hear(message, now);
    } catch (error) {
      // an error that is no Violation comes of values that the engine cannot take, like those nested too
      // deeply
      if (this.replica.epoch !== null) this.replica.void = true;
      this.#drop(error instanceof Violation ? error.message : `cannot be read: ${String(error)}`, now);
    }
  }

  #hear(message: Message, now: number): void {
    if ((message.type === "CONNECTED") !== (this.#phase === "opening"))
      throw new Violation(`expected CONNECTED first and once, got ${message.type}`);
    switch (message.type) {
      case "CONNECTED":
        return this.#greeted(message, now);
      case "PATCH":
      case "EVENT": {
        const event = this.replica.hear(message);
        if (event !== null) this.#emit({ kind: "event", event });
        else if (message.type === "PATCH") this.#emit({ kind: "changed" });
        return;
      }
      case "PRESENCE": {
        const { clients, whole, subjects } = message;
        const here = Object.entries({ ...(whole ? {} : this.presence.subjects), ...subjects });
        this.presence = { clients, subjects: Object.fromEntries(here.filter(([, count]) => count)) };
        return this.#emit({ kind: "presence" });
      }
      case "PONG":
        if (this.#phase === "catching") {
          this.#phase = "live";
          this.#goLive();
          this.#notice("recovered");
        }
        return;
      case "RESULT":
        return this.#succeed(message.requestId, message.body, message.seq);
      case "ANSWERED":
        return this.#succeed(message.requestId, {}, this.replica.head);
      case "PROGRESS": {
        const { requestId: id, suspensionId, extension, method } = message;
        if (id !== null && this.calls.suspend(id))
          this.#emit({ kind: "progress", id, suspensionId, extension, method });
        return;
      }
      case "ERROR":
        return this.#refused(message, now);
      case "TOKEN_EXPIRING":
        if (this.#settings.token === "renewable" && this.#refreshBy === Infinity) this.#refresh(now);
        return;
      case "REFRESHED":
        this.#log("token", "renewed");
        return;
    }
  }

  #greeted(message: Extract<Message, { type: "CONNECTED" }>, now: number): void {
    const { panel } = this.#settings;
    expect(message.panelId === panel, `the panel ${panel}, got ${message.panelId}`);
    const greeting = this.replica.connected(message);
    const whole = greeting !== "recovered";
    this.#refusedTokens = 0;
    this.#liveAt = now;
    this.#phase = whole ? "live" : "catching";
    // what was missed comes before the PONG, so that it says when the client has caught up
    if (!whole) {
      this.#send(PING);
      this.#pongBy = now + PONG_TIMEOUT_MS;
    }
    for (const id of this.calls.forgotten(message.epoch, greeting === "lost", now)) {
      this.calls.remove(id);
      this.#fail(id, new CallError("LOST", "nobody knows whether it ran", null, null));
    }
    this.#sendDue(now);
    if (!whole) return;
    this.#emit({ kind: "changed" });
    this.#goLive();
    if (greeting !== "first") this.#notice(greeting);
  }

  #notice(notice: Notice): void {
    this.#emit({ kind: "notice", notice });
    this.#log("notice", notice);
  }

  #goLive(): void {
    this.#wasLive = true;
    this.#report("live");
  }

  #refused(message: Extract<Message, { type: "ERROR" }>, now: number): void {
    const id = message.requestId;
    if (id === REFRESH_ID) {
      this.#log("token", `${message.code} ${message.message}`);
      if (message.code === "RATE_LIMITED") this.#refreshAt = now + Math.max(1000, message.retryAfterMs ?? 0);
    } else if (id !== null && this.calls.has(id)) {
      const error = this.calls.refused(id, message, now);
      if (error === null) return this.#log("again", `${id} ${message.code}`);
      this.calls.remove(id);
      this.#fail(id, error);
    } else this.#log("error", `${message.code} ${message.message}`);
  }

  // -- calls ---------------------------------------------------------------------------------------

  #keep({ id, what, key, text, overlay }: Extract<Input, { kind: "call" }>, now: number): void {
    const error = this.calls.add(id, what, key, text);
    if (error !== null) return this.#fail(id, error);
    if (overlay !== null && this.replica.expect(id, overlay)) this.#emit({ kind: "changed" });
    this.#sendDue(now);
  }

  #sendDue(now: number): void {
    if (!this.#connected) return;
    for (const text of this.calls.due(this.#flow, this.replica.epoch ?? "", now)) this.#send(text);
  }

  // the end of a call, and of what it was expected to change, in one step

  #succeed(id: string | null, body: { readonly [key: string]: Json }, seq: number): void {
    const entry = id === null ? null : this.calls.remove(id);
    if (entry === null) return;
    this.#uncover(entry.id);
    const result = { value: body["returnValue"] ?? null, seq, key: entry.key, body };
    this.#emit({ kind: "settle", id: entry.id, result, error: null });
  }

  #fail(id: string, error: CallError): void {
    this.#uncover(id);
    this.#emit({ kind: "settle", id, result: null, error });
  }

  #uncover(id: string): void {
    if (this.replica.settle(id)) this.#emit({ kind: "changed" });
  }

  /**
   * The server found a message too large and closed. Sent again it would do so for ever, so the largest one
   * fails.
   */
  #tooLarge(): void {
    const id = this.calls.largest(this.#flow);
    if (id === null) return;
    this.calls.remove(id);
    this.#fail(id, new CallError("TOO_LARGE", "the gateway takes no message of this size", null, null));
  }

  // -- time ----------------------------------------------------------------------------------------

  #tick(now: number): void {
    switch (this.#phase) {
      case "token":
        if (now >= this.#until) this.#noToken("no token in time", now);
        return;
      case "opening":
        if (now >= this.#until) this.#drop("no CONNECTED in time", now);
        return;
      case "waiting":
        if (now >= this.#until) this.#begin(now);
        return;
      case "live":
      case "catching":
        return this.#watch(now);
    }
  }

  #watch(now: number): void {
    if (this.#pongBy === null) {
      if (now >= this.#heardAt + PING_AFTER_MS) this.#ping(PONG_TIMEOUT_MS, now);
    } else if (now >= this.#pongBy) {
      // once only: where timers are always late, a dead socket would otherwise never be found out
      if (this.#late || now < this.#pongBy + LATE_MS) return this.#drop("no PONG in time", now);
      this.#late = true;
      this.#ping(WAKE_TIMEOUT_MS, now);
    }
    if (now >= this.#refreshBy) this.#noToken("no token in time", now);
    if (now >= this.#refreshAt) this.#refresh(now);
    this.#sendDue(now);
  }

  #wake(now: number): void {
    if (this.#connected) {
      if (this.#pongBy === null || this.#pongBy > now + WAKE_TIMEOUT_MS) this.#ping(WAKE_TIMEOUT_MS, now);
    } else if (this.#phase === "waiting" && !this.#offline) {
      this.#attempt = 0;
      this.#begin(now);
    }
  }

  #ping(timeoutMs: number, now: number): void {
    this.#send(PING);
    this.#pongBy = now + timeoutMs;
  }

  #refresh(now: number): void {
    this.#refreshAt = Infinity;
    this.#refreshBy = now + TOKEN_TIMEOUT_MS;
    this.#emit({ kind: "ask", ask: ++this.#ask });
  }

  // -- out -----------------------------------------------------------------------------------------

  #report(status: Status): void {
    if (status === this.#status) return;
    this.#status = status;
    this.#emit({ kind: "status", status });
    this.#log("status", status);
  }

  #send(text: string): void {
    this.#emit({ kind: "send", flow: this.#flow, text });
  }

  #log(what: string, detail: string): void {
    this.#emit({ kind: "log", what, detail: detail.slice(0, 300) });
  }

  #emit(instruction: Instruction): void {
    this.#out.push(instruction);
  }
}
