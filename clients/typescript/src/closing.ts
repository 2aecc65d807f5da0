/** What a client does after a connection has ended, or was refused, and how long it waits. Pure. */

/** Connect again; connect again with a new token; stop. */
export type Course = "retry" | "refresh" | "stop";

/**
 * The course after a close code. 4401 asks for another token. All others of 4400 to 4499 say about the
 * request what an HTTP status of 400 to 499 says, and the same request would end the same way. Everything
 * else is worth another try: the codes of RFC 6455, no code at all, and codes that nobody has defined yet.
 */
export function course(code: number): Course {
  if (code === 4401) return "refresh";
  return code >= 4400 && code <= 4499 ? "stop" : "retry";
}

/** In how many milliseconds a gateway that restarts wants the client back; 0 where it does not say. */
export function advice(code: number, reason: string): number {
  return code === 1012 ? Number(/^retry in (\d{1,6}) ms$/.exec(reason)?.[1] ?? 0) : 0;
}

/** The course after an upgrade that was refused with this error code of the protocol. */
export function courseOfRefusal(code: string): Course {
  if (code === "UNAUTHORIZED") return "refresh";
  return code === "FORBIDDEN" || code === "PANEL_NOT_FOUND" || code === "INVALID_REQUEST" ? "stop" : "retry";
}

export const MIN_DELAY_MS = 500;
export const MAX_DELAY_MS = 30_000;

/** How long to wait before attempt `attempt` (0 is the first one after a loss); `random` is in [0, 1). */
export function delay(attempt: number, random: number): number {
  return Math.min(MAX_DELAY_MS, MIN_DELAY_MS * 2 ** Math.min(attempt, 16)) * (0.5 + random / 2);
}
