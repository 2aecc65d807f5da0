// Types of what a panels handler finds in its world, for editors.
// In a handler's folder: /// <reference path="panels-handler.d.ts" />, or "types" in tsconfig.json.

/** A value that JSON can hold: what state, events and results are made of. */
type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/**
 * What the trigger brought, null when it brought nothing. A handler that is a function gets the same as its argument,
 * but undefined instead of null, so that a default applies: `({ by = 1 } = {}) => …`.
 */
declare const $args: any;

/**
 * Who triggers, and where. Never the token itself. `panelId`, `requestId` and `clientId` are written by the gateway;
 * the other names are claims of the token, those that the operator has listed in `scope-claims`.
 */
declare const $scope: {
  /** The token's subject, null for one without. `panel:<id>` where a panel triggers. */
  readonly sub: string | null;
  readonly panelId: string;
  /** What the caller marked the trigger with. */
  readonly requestId?: string;
  /** The caller's connection, as its CONNECTED says; none over HTTP. */
  readonly clientId?: string;
  readonly [claim: string]: Json | undefined;
};

/**
 * Who watches the panel as the handler begins: subjects with the number of their clients. Empty without the capability
 * `presence:read`.
 */
declare const $presence: { readonly [subject: string]: number | undefined };

interface PanelState {
  /** A top-level key of the panel's state. A value is an ordinary object, and changes in it are committed. */
  [key: string]: any;
  /** The value of a key, or `otherwise` when there is none. It also reaches keys with the name of a method. */
  get<T = any>(key: string, otherwise?: T): T;
  /** Sets a key; returns the value. */
  set<T>(key: string, value: T): T;
  /** Deletes a key; whether there was one. */
  delete(key: string): boolean;
  /** Whether there is a key. */
  has(key: string): boolean;
  /** All keys that the handler may read. */
  keys(): string[];
  /** Sets a key to what `change` makes of its value; returns that. */
  update<T = any>(key: string, change: (value: T | undefined) => T): T;
}

/**
 * The panel's state. Changes are committed together when the handler has completed, and broadcast.
 * Assigning an object replaces all keys.
 */
declare let $state: PanelState;

/**
 * Throws an `Error` with a `code` (a letter and then up to 63 of `A-Z a-z 0-9 . _ : -`) and `details` (at most 4 KiB
 * of JSON), which the caller finds as `details.handlerCode` and `details.handlerDetails`.
 */
declare const $fail: (code: string, message?: string, details?: unknown) => never;

/**
 * An id of 26 characters, a ULID: sorted by the job's time, and within a job in the order of the calls. It comes from the
 * job's clock and seed, so that a job that runs again makes the same ids. Not a secret.
 */
declare const $id: () => string;

/**
 * Emits an event to everyone who watches the panel, or, with `to`, to the clients of that subject alone: `{ to: $scope.sub }`
 * is the caller.
 */
declare const $emit: {
  (name: string, payload?: unknown, options?: { to: string }): void;
  /** The event `toast` with `{ message, type }`. */
  toast(message: string, type?: "info" | "success" | "warning" | "error" | (string & {})): void;
};

/** Commands to views of the caller's user interface; needs the capability `view:update:<view>`. */
declare const $view: {
  setFilter(viewId: string, filter?: unknown): void;
  scrollTo(viewId: string, target?: unknown): void;
  focus(viewId: string, target?: unknown): void;
  command(viewId: string, command: string, params?: unknown): void;
};

/** The handler's log, which the operator sees. `console` writes there too. */
declare const $log: {
  debug(...values: unknown[]): void;
  info(...values: unknown[]): void;
  warn(...values: unknown[]): void;
  error(...values: unknown[]): void;
};

/** The job's clock: the same instant for the whole job. */
declare const $time: { now(): number };

/**
 * Extensions; needs the capability `ext:<name>` or `ext:<name>.<method>`. Arguments and result are JSON. While it
 * waits the handler is suspended: what it did before is committed, and `$state` has to be read again afterwards.
 * A call that fails is rejected with an `Error` that has a `code`.
 */
declare const $ext: {
  readonly time: { sleep(ms: number): Promise<null> };
  readonly panels: { trigger(id: string, tool: string, args?: unknown): Promise<any> };
  readonly human: {
    approve(question: string, ...more: unknown[]): Promise<boolean>;
    ask(question: string, ...more: unknown[]): Promise<any>;
  };
  readonly [name: string]: { readonly [method: string]: (...args: unknown[]) => Promise<any> };
};
