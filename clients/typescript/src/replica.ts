/**
 * A panel as a client knows it: its state, the version up to which everything was heard, and what calls that
 * have no answer yet are expected to change. Pure.
 *
 *     position   where to resume: every message up to this version was heard, whole
 *     head       the newest version that anything heard belongs to; equal to position between two units
 *     shown      the state with the overlays of calls that have no answer on top
 */

import { freeze, same, Violation } from "./messages.ts";
import type { Json, Message, PanelEvent, State } from "./messages.ts";

type Connected = Extract<Message, { type: "CONNECTED" }>;
type Change = Extract<Message, { type: "PATCH" | "EVENT" }>;

/**
 * What a new connection found. `recovered`: nothing was missed. `resynced`: the whole state came, and events
 * may have been missed. `lost`: the same, and it is another history, so that calls that were sent before have
 * no answer.
 */
export type Notice = "recovered" | "resynced" | "lost";
export type Greeting = "first" | Notice;

/** What a call is expected to change: the value of each key, undefined where the key is deleted. */
export type Overlay = ReadonlyMap<string, Json | undefined>;

/**
 * How many versions may have events above the position. The gateway holds no more commits of a panel by far.
 */
const MAX_EARLY = 65_536;

export class Replica {
  position = 0;
  head = 0;
  /** Of the panel that the state belongs to; null before the first state. */
  epoch: string | null = null;
  /** A state was there, and cannot be used any more: the whole one is asked for. */
  void = false;

  #base = new Map<string, Json>();
  #overlays = new Map<string, Overlay>();
  #shown: State | null = null;
  /**
   * How many events were heard of versions above the position, and how many of those are still to come again.
   */
  #early = new Map<number, number>();
  #again = new Map<number, number>();

  /** What the next upgrade asks: null without a state, `none` where it is void. */
  asks(): { epoch: string; since: string } | null {
    if (this.epoch === null) return null;
    return { epoch: this.epoch, since: this.void ? "none" : String(this.position) };
  }

  /** The state to show. Another object whenever it has changed, and the same one otherwise. */
  get shown(): State {
    if (this.#shown === null) {
      const shown = Object.create(null) as { [key: string]: Json };
      for (const [key, value] of this.#base) shown[key] = value;
      for (const overlay of this.#overlays.values())
        for (const [key, value] of overlay)
          if (value === undefined) delete shown[key];
          else shown[key] = value;
      this.#shown = Object.freeze(shown);
    }
    return this.#shown;
  }

  /** One value of the state to show, at a cost that does not grow with the state. */
  value(key: string): Json | undefined {
    let value = this.#base.get(key);
    for (const overlay of this.#overlays.values()) if (overlay.has(key)) value = overlay.get(key);
    return value;
  }

  /** What CONNECTED means for what was known before. Throws `Violation`. */
  connected(message: Connected): Greeting {
    let greeting: Greeting = "recovered";
    if (message.recovered) {
      if (message.state !== null) throw new Violation("expected no state where recovered is true, got one");
      if (this.void || this.epoch === null)
        throw new Violation("expected a state, as none was there to resume from");
      if (message.epoch !== this.epoch) throw new Violation(`expected the epoch ${this.epoch}, got another`);
      if (message.seq < this.position)
        throw new Violation(`expected version ${this.position} or later, got ${message.seq}`);
      // what was heard of units that were cut off comes again
      this.#again = this.#early;
    } else {
      if (message.state === null)
        throw new Violation("expected a state where recovered is not true, got none");
      const next = new Map<string, Json>();
      // a version that went backwards is another history, whatever its name
      const lost = message.epoch !== this.epoch || message.seq < this.position;
      greeting = this.epoch === null ? "first" : lost ? "lost" : "resynced";
      for (const [key, value] of Object.entries(message.state)) {
        // a value that is the same stays the same object, so that nobody is told of it
        const old = this.#base.get(key);
        next.set(key, old !== undefined && same(old, value) ? old : freeze(value));
      }
      this.#base = next;
      this.position = message.seq;
      this.epoch = message.epoch;
      this.void = false;
      this.#again = new Map();
      this.#shown = null;
    }
    this.#early = new Map();
    this.head = this.position;
    return greeting;
  }

  /** A PATCH or EVENT; the event if it is one to hand on. Throws `Violation`. */
  hear(message: Change): PanelEvent | null {
    const { seq } = message;
    if (seq <= this.position)
      throw new Violation(`expected a version after ${this.position}, got ${seq} again`);
    if (seq > this.head) {
      if (message.follows > this.head)
        throw new Violation(
          `expected what follows version ${this.head}, got what follows ${message.follows}`,
        );
      this.head = seq;
    }
    let event: PanelEvent | null = null;
    if (message.type === "PATCH") {
      for (const mutation of message.mutations)
        if (mutation.op === "set") this.#base.set(mutation.key, mutation.value);
        else this.#base.delete(mutation.key);
      if (message.mutations.length) this.#shown = null;
    } else {
      this.#early.set(seq, (this.#early.get(seq) ?? 0) + 1);
      if (this.#early.size > MAX_EARLY)
        throw new Violation(`expected units of at most ${MAX_EARLY} versions`);
      const again = this.#again.get(seq) ?? 0;
      if (again) this.#again.set(seq, again - 1);
      else event = message.event;
    }
    if (!message.more) {
      this.position = seq;
      for (const version of this.#early.keys()) if (version <= seq) this.#early.delete(version);
    }
    return event;
  }

  /**
   * Shows what a call is expected to change until `settle`. Whether anything is shown otherwise than before.
   */
  expect(call: string, overlay: Overlay): boolean {
    if (!overlay.size) return false;
    this.#overlays.set(call, overlay);
    this.#shown = null;
    return true;
  }

  /** Removes the overlay of a call. Whether it had one. */
  settle(call: string): boolean {
    const had = this.#overlays.delete(call);
    if (had) this.#shown = null;
    return had;
  }
}

/**
 * What `draft` does to `shown`, key by key. It is recorded once, and not run again on later states: the
 * caller's own PATCH, which comes before RESULT and does not name the call, would otherwise be counted twice
 * for a moment.
 */
export function record(shown: State, draft: (state: Record<string, Json>) => void): Overlay {
  const made: Record<string, Json> = Object.create(null);
  for (const [key, value] of Object.entries(shown)) made[key] = structuredClone(value) as Json;
  draft(made);
  const overlay = new Map<string, Json | undefined>();
  for (const [key, value] of Object.entries(made))
    if (value !== undefined && !(key in shown && same(shown[key], value)))
      overlay.set(key, freeze(structuredClone(value)));
  for (const key of Object.keys(shown)) if (made[key] === undefined) overlay.set(key, undefined);
  return overlay;
}
