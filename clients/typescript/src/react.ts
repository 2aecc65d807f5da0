/**
 * The binding for React: components that show a panel, and are drawn again when what they show has changed.
 */

import { useCallback, useRef, useSyncExternalStore } from "react";

import type { Status } from "./core.ts";
import type { Panel } from "./panel.ts";

/** What `selector` makes of the panel's state, or all of it. The selector may give a new object each time. */
export function usePanel<S>(panel: Panel<S>): S;
export function usePanel<S, T>(panel: Panel<S>, selector: (state: S) => T): T;
export function usePanel<S>(panel: Panel<S>, selector?: (state: S) => unknown): unknown {
  const last = useRef<[S, unknown, unknown] | null>(null);
  // one state and selector give one value: React draws for ever if a snapshot differs each time it looks
  const snapshot = (): unknown => {
    const { state } = panel;
    if (last.current?.[0] !== state || last.current[1] !== selector)
      last.current = [state, selector, selector ? selector(state) : state];
    return last.current[2];
  };
  const listen = useCallback((tell: () => void) => panel.subscribe((state: S) => state, tell), [panel]);
  return useSyncExternalStore(listen, snapshot, snapshot);
}

/** The panel's status. */
export function usePanelStatus(panel: Panel<never> | Panel<object>): Status {
  const listen = useCallback((tell: () => void) => panel.onStatus(tell), [panel]);
  const snapshot = (): Status => panel.status;
  return useSyncExternalStore(listen, snapshot, snapshot);
}
