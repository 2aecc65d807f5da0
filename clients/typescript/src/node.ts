/** The same for Node, which has a WebSocket of its own since version 22. */

import { connect as connectWith } from "./panel.ts";
import type { ConnectOptions, Panel } from "./panel.ts";
import type { State } from "./messages.ts";
import { NodeSocket } from "./node-socket.ts";

export { CallError } from "./calls.ts";
export { Panel } from "./panel.ts";

/** See `connect` of index.ts. */
export function connect<S = State>(url: string, options: ConnectOptions): Panel<S> {
  return connectWith<S>(
    url,
    typeof WebSocket === "undefined" ? { WebSocket: NodeSocket, ...options } : options,
  );
}
