/**
 * The thin shell around one WebSocket: it dials, hands on what comes, and asks why an upgrade was refused. No
 * rules.
 */

/** As much of a WebSocket as the client uses. */
export interface WebSocketLike {
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

export type WebSocketClass = new (url: string, protocols: string[]) => WebSocketLike;

/**
 * What a connection tells; each connection ends with exactly one `closed` or `refused`, unless it is dropped.
 */
export interface Listener {
  message(data: unknown): void;
  closed(code: number, reason: string): void;
  refused(code: string, reason: string, retryAfterMs: number): void;
}

export interface Connection {
  send(text: string): void;
  /** Ends it. Nothing is told of it after that. */
  drop(code: number, reason: string): void;
}

export type Dial = (url: string, token: string | null, listener: Listener) => Connection;

const PROBE_TIMEOUT_MS = 10_000;

export function dialer(WebSocket: WebSocketClass): Dial {
  return (url, token, listener) => {
    let opened = false;
    let ended = false;
    const socket = new WebSocket(url, token === null ? ["panels.v1"] : ["panels.v1", `bearer.${token}`]);
    socket.onopen = () => void (opened = true);
    socket.onmessage = (event: { data: unknown }) => listener.message(event.data);
    const end = async ({ code, reason }: { code: number; reason: string }): Promise<void> => {
      if (ended) return;
      ended = true;
      const refusal = opened ? null : await probe(url, token);
      if (refusal === null) listener.closed(code, reason);
      else listener.refused(...refusal);
    };
    socket.onclose = end;
    // an upgrade that is refused ends with this alone where the WebSocket is that of Node 22
    socket.onerror = () => void (opened || end({ code: 1006, reason: "" }));
    return {
      send: (text) => socket.send(text),
      drop: (code, reason) => {
        ended = true;
        socket.onopen = socket.onmessage = socket.onclose = null;
        // a browser takes at most 123 bytes of reason
        socket.close(code, reason.replace(/[^ -~]/g, "?").slice(0, 120));
      },
    };
  };
}

/**
 * Why an upgrade was refused, which a page is not told: the same is asked over HTTP, under the same token.
 * Null where that says nothing: nobody answers, or the page may not read the answer.
 */
function probe(url: string, token: string | null): Promise<[string, string, number] | null> {
  return new Promise((resolve) => {
    // a fetch whose signal aborts between its head and its body may never end
    const late = setTimeout(resolve, PROBE_TIMEOUT_MS, null);
    void ask(url, token).then((refusal) => {
      clearTimeout(late);
      resolve(refusal);
    });
  });
}

async function ask(url: string, token: string | null): Promise<[string, string, number] | null> {
  try {
    const target = url.replace(/^ws/, "http").replace(/\/ws(\?.*)?$/, "");
    const answer = await fetch(target, {
      headers: token === null ? {} : { Authorization: `Bearer ${token}` },
      cache: "no-store",
      signal: AbortSignal.timeout(PROBE_TIMEOUT_MS),
    });
    if (answer.ok) return null;
    const { error } = (await answer.json()) as { error: { code: unknown; message: unknown } };
    const seconds = Number(answer.headers.get("Retry-After"));
    return [String(error.code), String(error.message), seconds > 0 ? seconds * 1000 : 0];
  } catch {
    return null;
  }
}
