/**
 * A panel as a client knows it: its state, the version up to which everything was heard, and what calls that
 * have no answer yet are expected to change. Pure.
 *
 *     position   where to resume: every message up to this version was heard, whole
 *     head       the newest version that anything heard belongs to; equal to position between two units
 *     shown      the state with the overlays of calls that have no answer on top
 */

import { expect, freeze, same, Violation } from "./messages.ts";
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
   * How many events of each version above the position the application has, and how many came on this connection:
   * however often a unit is cut off, only what comes beyond the former is new.
   */
  #early = new Map<number, number>();
  #here = new Map<number, number>();

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

  /**
   * What is shown, for a selector: it is always the present state, and reading a value of it costs no copy of all
   * of them, as `shown` does.
   */
  readonly live: State = new Proxy(Object.create(null) as State, {
    get: (_, key) => this.value(key as string),
    has: (_, key) => this.value(key as string) !== undefined,
    ownKeys: () => Object.keys(this.shown),
    getOwnPropertyDescriptor: (_, key) => {
      const value = this.value(key as string);
      return value === undefined ? value : { value, enumerable: true, configurable: true };
    },
    defineProperty: () => false,
    deleteProperty: () => false,
    preventExtensions: () => false,
  });

  /** What CONNECTED means for what was known before. Throws `Violation`. */
  connected(message: Connected): Greeting {
    let greeting: Greeting = "recovered";
    if (message.recovered) {
      expect(message.state === null, "no state if recovered");
      expect(!this.void && this.epoch !== null, "a state, as there was none to resume from");
      expect(message.epoch === this.epoch, `the epoch ${this.epoch}`);
      expect(message.seq >= this.position, `version ${this.position} or later, got ${message.seq}`);
    } else {
      expect(message.state !== null, "a state unless recovered");
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
      this.#early = new Map();
      this.#shown = null;
    }
    this.#here = new Map();
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
          `expected what follows version ${this.head}, got ${message.follows}`,
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
      const count = (this.#here.get(seq) ?? 0) + 1;
      this.#here.set(seq, count);
      if (this.#early.size > MAX_EARLY)
        throw new Violation(`expected units of at most ${MAX_EARLY} versions`);
      if (count > (this.#early.get(seq) ?? 0)) {
        this.#early.set(seq, count);
        event = message.event;
      }
    }
    if (!message.more) {
      this.position = seq;
      for (const counts of [this.#early, this.#here])
        for (const version of counts.keys()) if (version <= seq) counts.delete(version);
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
  for (const key of Object.keys({ ...shown, ...made }))
    if (!same(shown[key], made[key])) overlay.set(key, freeze(structuredClone(made[key] as Json)));
  return overlay;
}
