/** @panels/client: live state that survives lost connections, and calls that happen once. */

export { CallError } from "./calls.ts";
export type { Pending } from "./calls.ts";
export type { Result, Status } from "./core.ts";
export type { Json, PanelEvent, Presence, State } from "./messages.ts";
export { connect, Panel } from "./panel.ts";
export type { CallOptions, ConnectOptions, Draft, LogEntry, Progress, TokenProvider } from "./panel.ts";
export type { Notice } from "./replica.ts";
export type { WebSocketClass, WebSocketLike } from "./socket.ts";
