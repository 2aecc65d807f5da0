/** The binding for React, drawn by its test renderer. */

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { createElement } from "react";
import type { ReactElement } from "react";
import { act, create } from "react-test-renderer";
import type { ReactTestRenderer } from "react-test-renderer";

import { usePanel, usePanelStatus } from "../src/react.ts";
import type { Panel } from "../src/panel.ts";
import { patch, World } from "./support.ts";

(globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;

let drawn: ReactTestRenderer | null = null;
let draws = 0;
afterEach(() => {
  act(() => drawn?.unmount());
  draws = 0;
});

function draw(component: () => string): () => unknown {
  const Component = (): ReactElement => (draws++, createElement("p", null, component()));
  act(() => void (drawn = create(createElement(Component))));
  return () => (drawn?.toJSON() as { children: string[] }).children[0];
}

test("a component shows what it selects, and is drawn again for that only", () => {
  const world = new World();
  const panel = world.connect();
  const text = draw(() => `n is ${String(usePanel(panel, ({ n }) => n))}`);
  assert.equal(text(), "n is undefined");
  act(() => void world.socket.greet({ state: { n: 1 } }));
  assert.equal(text(), "n is 1");
  const before = draws;
  act(() => void world.socket.say(patch(1, { other: 1 })));
  assert.deepEqual([text(), draws], ["n is 1", before]);
  act(() => void world.socket.say(patch(2, { n: 2 })));
  assert.deepEqual([text(), draws], ["n is 2", before + 1]);
});

test("a selector may make a new object each time", () => {
  const world = new World();
  const panel: Panel = world.connect();
  const text = draw(() => JSON.stringify(usePanel(panel, (state) => Object.keys(state).map((key) => [key]))));
  act(() => void world.socket.greet({ state: { a: 1, b: 2 } }));
  assert.equal(text(), '[["a"],["b"]]');
  assert.ok(draws < 6);
});

test("without a selector it is the whole state, and the status has a hook of its own", () => {
  const world = new World();
  const panel = world.connect();
  const text = draw(() => `${usePanelStatus(panel)} ${JSON.stringify(usePanel(panel))}`);
  assert.equal(text(), "connecting {}");
  act(() => void world.socket.greet({ state: { a: 1 } }));
  assert.equal(text(), 'live {"a":1}');
  act(() => panel.close());
  assert.equal(text(), 'closed {"a":1}');
});
