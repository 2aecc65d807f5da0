/**
 * What a gateway sends, checked: a frame is a message of docs/protocol.md, a message to be ignored, or a
 * violation. Only fields that the client uses are checked. Nothing in here trusts the server.
 */

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** The state of a panel. It has no prototype, so that every key is a key and nothing else. Frozen. */
export type State = { readonly [key: string]: Json };

export type Mutation = { op: "set"; key: string; value: Json } | { op: "delete"; key: string };

/**
 * An event of the panel. `seq` is the version that it belongs to, `timestamp` is in milliseconds since 1970.
 */
export interface PanelEvent {
  readonly name: string;
  readonly payload: Json;
  readonly timestamp: number;
  readonly seq: number;
  /** The subject that alone hears it; absent for an event that is for everyone. */
  readonly to?: string;
}

/** Who watches the panel: how many clients, and how many of them each subject has. */
export interface Presence {
  readonly clients: number;
  readonly subjects: { readonly [subject: string]: number };
}

export type Message =
  | {
      type: "CONNECTED";
      panelId: string;
      state: State | null;
      seq: number;
      epoch: string;
      recovered: boolean;
    }
  | { type: "PATCH"; mutations: readonly Mutation[]; seq: number; follows: number; more: boolean }
  | { type: "EVENT"; event: PanelEvent; seq: number; follows: number; more: boolean }
  | { type: "RESULT"; requestId: string | null; body: { readonly [key: string]: Json }; seq: number }
  | { type: "PROGRESS"; requestId: string | null; suspensionId: string; extension: string; method: string }
  | { type: "ANSWERED"; requestId: string | null }
  | { type: "REFRESHED"; requestId: string | null }
  | { type: "TOKEN_EXPIRING"; expiresAt: number }
  | ({ type: "PRESENCE"; whole: boolean } & Presence)
  | { type: "PONG" }
  | {
      type: "ERROR";
      requestId: string | null;
      code: string;
      message: string;
      details: Json;
      retryAfterMs: number | null;
    };

/** The server did what the protocol does not allow. The connection is given up, the client is not. */
export class Violation extends Error {
  override name = "Violation";
}

/** Throws `Violation` unless `condition` holds. */
export function expect(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Violation(`expected ${what}`);
}

type Fields = { readonly [key: string]: unknown };

/**
 * How long a message may be, in UTF-16 units: the largest state of a panel fits several times. A security
 * limit.
 */
export const MAX_MESSAGE_LENGTH = 64 * 1024 * 1024;

/** The message in a frame, or null if its type is not known. Throws `Violation`. */
export function decode(data: unknown): Message | null {
  expect(typeof data === "string", "text, got a binary frame");
  if (data.length > MAX_MESSAGE_LENGTH)
    throw new Violation(`expected at most ${MAX_MESSAGE_LENGTH} characters, got ${data.length}`);
  let value: unknown;
  try {
    value = JSON.parse(data);
  } catch {
    throw new Violation("expected JSON");
  }
  expect(isObject(value), "an object");
  const type = text(value, "type");
  const requestId = typeof value["requestId"] === "string" ? value["requestId"] : null;
  switch (type) {
    case "CONNECTED":
      return {
        type,
        panelId: text(value, "panelId"),
        state: value["state"] === undefined ? null : (object(value, "state") as State),
        seq: version(value, "seq"),
        epoch: text(value, "epoch"),
        recovered: value["recovered"] === true,
      };
    case "PATCH":
      return { type, mutations: mutations(value["mutations"]), ...place(value) };
    case "EVENT": {
      const event = object(value, "event");
      const at = place(value);
      const timestamp = typeof event["timestamp"] === "number" ? event["timestamp"] : 0;
      const payload = freeze((event["payload"] ?? null) as Json);
      const to = typeof event["to"] === "string" ? { to: event["to"] } : {};
      return {
        type,
        event: Object.freeze({ name: text(event, "name"), payload, timestamp, seq: at.seq, ...to }),
        ...at,
      };
    }
    case "RESULT":
      return {
        type,
        requestId,
        body: freeze(object(value, "result") as { [key: string]: Json }),
        seq: version(value, "seq"),
      };
    case "PROGRESS": {
      const suspensionId = text(value, "suspensionId");
      return {
        type,
        requestId,
        suspensionId,
        extension: text(value, "extension"),
        method: text(value, "method"),
      };
    }
    case "ANSWERED":
    case "REFRESHED":
      return { type, requestId };
    case "TOKEN_EXPIRING":
      return { type, expiresAt: Number(value["expiresAt"]) };
    case "PRESENCE":
      return {
        type,
        clients: version(value, "clients"),
        subjects: object(value, "subjects") as Presence["subjects"],
        whole: value["whole"] === true,
      };
    case "PONG":
      return { type };
    case "ERROR": {
      const wait = value["retryAfterMs"];
      return {
        type,
        requestId,
        code: text(value, "code"),
        message: String(value["message"] ?? ""),
        details: (value["details"] ?? null) as Json,
        retryAfterMs: typeof wait === "number" && wait >= 0 ? wait : null,
      };
    }
    default:
      return null;
  }
}

/**
 * `value`, frozen with all that is in it. JSON has no cycles and is at most 64 deep, or as deep as
 * `JSON.parse` goes.
 */
export function freeze<T extends Json>(value: T): T {
  const open: unknown[] = [value];
  while (open.length) {
    const next = open.pop();
    if (typeof next === "object" && next !== null && !Object.isFrozen(next)) {
      Object.freeze(next);
      for (const inner of Object.values(next)) if (typeof inner === "object") open.push(inner);
    }
  }
  return value;
}

/** Whether two values are the same JSON. */
export function same(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const keys = Object.keys(a);
  return (
    keys.length === Object.keys(b).length &&
    keys.every((key) => Object.hasOwn(b, key) && same((a as Fields)[key], (b as Fields)[key]))
  );
}

function place(value: Fields): { seq: number; follows: number; more: boolean } {
  const seq = version(value, "seq");
  const first = value["firstSeq"] === undefined ? seq : version(value, "firstSeq");
  const follows = value["prevSeq"] === undefined ? first - 1 : version(value, "prevSeq");
  if (follows >= seq)
    throw new Violation(`expected ${seq} to follow an earlier version, got ${follows}`);
  return { seq, follows, more: value["more"] === true };
}

function mutations(value: unknown): readonly Mutation[] {
  expect(Array.isArray(value), "an array of mutations");
  return value.map((item: unknown): Mutation => {
    expect(isObject(item), "a mutation");
    const key = text(item, "key");
    if (item["op"] === "delete") return { op: "delete", key };
    if (item["op"] === "set" && "value" in item)
      return { op: "set", key, value: freeze(item["value"] as Json) };
    throw new Violation("expected set or delete");
  });
}

function isObject(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function object(fields: Fields, name: string): Fields {
  const value = fields[name];
  if (!isObject(value)) throw new Violation(`expected ${name} to be an object`);
  return value;
}

function text(fields: Fields, name: string): string {
  const value = fields[name];
  if (typeof value !== "string") throw new Violation(`expected ${name} to be a string`);
  return value;
}

function version(fields: Fields, name: string): number {
  const value = fields[name];
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0)
    throw new Violation(`expected ${name} to be a version`);
  return value;
}
