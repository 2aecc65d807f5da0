/**
 * Calls and answers that the server has not answered yet. Each is encoded once, sent again as it is after a
 * lost connection, and settled once. Pure.
 */

import type { Json } from "./messages.ts";

/**
 * A call that has no result. `ran` says whether the handler ran: null where the call was sent and nobody can
 * say. `code` is one of the protocol, or of the client: CLOSED (the panel is closed, `details.reason` says
 * why), LOST (the panel was made anew, and what became of the call cannot be learned), TOO_MANY_CALLS,
 * TOO_LARGE.
 */
export class CallError extends Error {
  override name = "CallError";

  constructor(
    readonly code: string,
    message: string,
    readonly details: Json = null,
    readonly ran: boolean | null = false,
    readonly retryAfterMs: number | null = null,
  ) {
    super(`${code}: ${message}`);
  }
}

export interface Bounds {
  /** How many calls and answers may wait. One more is refused. */
  readonly maxPending: number;
  /** How large one of them may be, in bytes of UTF-8. It should be the gateway's `max-frame-bytes`. */
  readonly maxCallBytes: number;
}

/** One call or answer that waits. */
export interface Entry extends Pending {
  readonly id: string;
  readonly text: string;
  readonly bytes: number;
  sends: number;
  waits: boolean;
  firstSentAt: number;
  /** The connection it was sent on last, and the epoch it was sent in first. */
  flow: number;
  epoch: string | null;
  /** When to send it again, although it was sent on this connection; Infinity if not at all. */
  retryAt: number;
}

/** What the application may know of it. */
export interface Pending {
  /** The idempotency key of a call, and something as unique for an answer. */
  readonly key: string;
  /** The tool, or the suspension that is answered. */
  readonly what: string;
  /** How often it was sent. */
  readonly sends: number;
  /** Whether its handler is suspended. */
  readonly waits: boolean;
}

/** Refusals after which the same trigger may be tried again. */
const RETRIED: ReadonlySet<string> = new Set([
  "OVERLOADED",
  "RATE_LIMITED",
  "QUOTA_EXCEEDED",
  "CIRCUIT_OPEN",
  "UNAVAILABLE",
]);
/** The gateway keeps keys for `idempotency-ttl`, 24 hours unless it is configured. */
const KEY_LIFETIME_MS = 23 * 3_600_000;
const MAX_SENDS = 16;
const MIN_RETRY_MS = 50;
const MAX_RETRY_MS = 60_000;
/** How much may wait in all, in bytes. */
const MAX_TOTAL_BYTES = 16 * 1024 * 1024;

export class Calls {
  #entries = new Map<string, Entry>();
  #bytes = 0;

  constructor(readonly bounds: Bounds) {}

  get pending(): readonly Pending[] {
    return [...this.#entries.values()].map(({ key, what, sends, waits }) => ({ key, what, sends, waits }));
  }

  get ids(): string[] {
    return [...this.#entries.keys()];
  }

  has(id: string): boolean {
    return this.#entries.has(id);
  }

  /** Its handler is suspended. Whether there is such a call. */
  suspend(id: string): boolean {
    const entry = this.#entries.get(id);
    if (entry) entry.waits = true;
    return entry !== undefined;
  }

  /** Keeps a call; why not, if it cannot be kept. */
  add(id: string, what: string, key: string, text: string): CallError | null {
    const { maxPending, maxCallBytes } = this.bounds;
    const bytes = new TextEncoder().encode(text).length;
    if (bytes > maxCallBytes)
      return new CallError("TOO_LARGE", `expected at most ${maxCallBytes} bytes, got ${bytes}`);
    if (this.#entries.size >= maxPending || this.#bytes + bytes > MAX_TOTAL_BYTES)
      return new CallError("TOO_MANY_CALLS", `${this.#entries.size} calls wait for an answer`);
    this.#bytes += bytes;
    const unsent = { sends: 0, waits: false, firstSentAt: 0, flow: 0, epoch: null, retryAt: Infinity };
    this.#entries.set(id, { id, what, key, text, bytes, ...unsent });
    return null;
  }

  /** Forgets a call, and gives it. */
  remove(id: string): Entry | null {
    const entry = this.#entries.get(id) ?? null;
    if (entry && this.#entries.delete(id)) this.#bytes -= entry.bytes;
    return entry;
  }

  /** What is to be sent on the connection `flow` now, oldest first; it counts as sent. */
  due(flow: number, epoch: string, now: number): string[] {
    const texts = [];
    for (const entry of this.#entries.values()) {
      if (entry.flow === flow && entry.retryAt > now) continue;
      if (entry.sends++ === 0) {
        entry.epoch = epoch;
        entry.firstSentAt = now;
      }
      entry.flow = flow;
      entry.retryAt = Infinity;
      texts.push(entry.text);
    }
    return texts;
  }

  /** When `due` has something next on this connection; Infinity if nothing waits for a time. */
  get deadline(): number {
    let first = Infinity;
    for (const { retryAt } of this.#entries.values()) if (retryAt < first) first = retryAt;
    return first;
  }

  /**
   * What an ERROR means for a call: null if it is sent again later. A call that was sent once was refused,
   * and nothing ran. One that was sent before may have run, whatever stands in the way of asking again, so it
   * keeps asking.
   */
  refused(
    id: string,
    error: { code: string; message: string; details: Json; retryAfterMs: number | null },
    now: number,
  ): CallError | null {
    const { code, message, details, retryAfterMs } = error;
    const entry = this.#entries.get(id);
    const again = entry !== undefined && entry.sends > 1;
    if (again && RETRIED.has(code) && entry.sends < MAX_SENDS) {
      entry.retryAt = now + Math.min(Math.max(retryAfterMs ?? 1000, MIN_RETRY_MS), MAX_RETRY_MS);
      return null;
    }
    const ran = code === "EXECUTION_ERROR" ? true : again || code === "INTERNAL" ? null : false;
    return new CallError(code, message, details, ran, retryAfterMs);
  }

  /**
   * The calls whose keys the gateway may have forgotten, so that sent again they could run twice: they were
   * sent in another epoch than `epoch`, in another history, or too long ago.
   */
  forgotten(epoch: string, lost: boolean, now: number): string[] {
    const gone = (entry: Entry): boolean =>
      lost || entry.epoch !== epoch || now - entry.firstSentAt > KEY_LIFETIME_MS;
    return [...this.#entries.values()].filter((entry) => entry.sends > 0 && gone(entry)).map(({ id }) => id);
  }

  /**
   * The largest of what was sent on a connection: what the server found too large, if it closed with 1009.
   */
  largest(flow: number): string | null {
    let found: Entry | null = null;
    for (const entry of this.#entries.values())
      if (entry.flow === flow && entry.bytes > (found?.bytes ?? 0)) found = entry;
    return found?.id ?? null;
  }
}
