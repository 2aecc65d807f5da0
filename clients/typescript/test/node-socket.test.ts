/** The WebSocket for old versions of Node, against servers that are written byte by byte. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import * as net from "node:net";
import { test } from "node:test";
import type { TestContext } from "node:test";

import { NodeSocket } from "../src/node-socket.ts";

interface Ended {
  code: number;
  reason: string;
}
interface Peer {
  socket: NodeSocket;
  /** The server's end, after the upgrade. */
  far: net.Socket;
  heard: string[];
  ended: Promise<Ended>;
  /** The next so many bytes that the client sends. */
  bytes(count: number): Promise<Buffer>;
}

function accept(request: string): string {
  const key = /Sec-WebSocket-Key: (.*)\r\n/i.exec(request)?.[1] ?? "";
  return createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
}

async function listen(t: TestContext, serve: (far: net.Socket) => void): Promise<string> {
  const server = net.createServer((far) => {
    far.on("error", () => {});
    t.after(() => far.destroy());
    serve(far);
  });
  t.after(() => server.close());
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `ws://127.0.0.1:${(server.address() as net.AddressInfo).port}/x`;
}

function watch(socket: NodeSocket): { heard: string[]; ended: Promise<Ended> } {
  const heard: string[] = [];
  socket.onmessage = ({ data }: { data: string }) => void heard.push(data);
  return { heard, ended: new Promise((resolve) => (socket.onclose = (event: Ended) => resolve(event))) };
}

/** A connection whose upgrade has gone well, with `first` behind the server's answer in the same segment. */
async function peer(t: TestContext, first: Buffer = Buffer.alloc(0)): Promise<Peer> {
  let met: (far: net.Socket) => void = () => {};
  const meeting = new Promise<net.Socket>((resolve) => (met = resolve));
  const url = await listen(t, (far) =>
    far.once("data", (data: Buffer) => {
      far.pause();
      const head = `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n`;
      far.write(
        Buffer.concat([
          Buffer.from(`${head}Sec-WebSocket-Accept: ${accept(data.toString())}\r\n\r\n`),
          first,
        ]),
      );
      met(far);
    }),
  );
  const socket = new NodeSocket(url, ["panels.v1"]);
  const opened = new Promise<void>((resolve) => (socket.onopen = () => resolve()));
  const watched = watch(socket);
  const far = await meeting;
  await opened;
  let had = Buffer.alloc(0);
  let more = (): void => {};
  far.on("data", (data: Buffer) => {
    had = Buffer.concat([had, data]);
    more();
  });
  far.resume();
  const bytes = async (count: number): Promise<Buffer> => {
    while (had.length < count) await new Promise<void>((resolve) => (more = resolve));
    const taken = had.subarray(0, count);
    had = had.subarray(count);
    return taken;
  };
  return { socket, far, bytes, ...watched };
}

function frame(opcode: number, payload: Buffer | string, { final = true, length = -1 } = {}): Buffer {
  const body = Buffer.from(payload as string);
  const size = length < 0 ? body.length : length;
  const head = Buffer.alloc(size < 126 ? 2 : size < 65_536 ? 4 : 10);
  head[0] = (final ? 0x80 : 0) | opcode;
  head[1] = size < 126 ? size : size < 65_536 ? 126 : 127;
  if (head.length === 4) head.writeUInt16BE(size, 2);
  if (head.length === 10) head.writeBigUInt64BE(BigInt(size), 2);
  return Buffer.concat([head, body]);
}

const closing = (code: number, reason = ""): Buffer =>
  frame(8, Buffer.concat([Buffer.from([code >> 8, code & 255]), Buffer.from(reason)]));

test("messages of every size come, however they are cut", async (t) => {
  const texts = ["", "a", "x".repeat(125), "y".repeat(126), "é".repeat(40_000)];
  const all = Buffer.concat([...texts.map((text) => frame(1, text)), closing(4404, "gone")]);
  const { far, heard, ended } = await peer(t, all.subarray(0, 3));
  for (let at = 3; at < 400; at++) far.write(all.subarray(at, at + 1));
  for (let at = 400; at < all.length; at += 7_919) far.write(all.subarray(at, at + 7_919));
  assert.deepEqual(await ended, { code: 4404, reason: "gone" });
  assert.deepEqual(heard, texts);
});

test("fragments are joined, with a PING in between", async (t) => {
  const { far, heard, ended, bytes } = await peer(t);
  const smile = Buffer.from("😀");
  far.write(frame(1, smile.subarray(0, 2), { final: false }));
  far.write(frame(9, "hi"));
  far.write(Buffer.concat([frame(0, smile.subarray(2)), closing(1012)]));
  const pong = await bytes(8);
  assert.deepEqual([pong[0], pong[1], pong[6]! ^ pong[2]!, pong[7]! ^ pong[3]!], [0x8a, 0x82, 104, 105]);
  assert.equal((await ended).code, 1012);
  assert.deepEqual(heard, ["😀"]);
});

for (const [size, head] of [
  [5, 2],
  [300, 4],
  [70_000, 10],
] as const)
  test(`a message of ${size} bytes is sent masked`, async (t) => {
    const { socket, bytes } = await peer(t);
    socket.send("z".repeat(size));
    const sent = await bytes(head + 4 + size);
    const mask = sent.subarray(head, head + 4);
    const text = Buffer.from(sent.subarray(head + 4).map((byte, i) => byte ^ mask[i & 3]!)).toString();
    assert.equal(text, "z".repeat(size));
    assert.equal(sent[1]! & 0x80, 0x80);
    socket.close();
  });

for (const [name, bad, code] of [
  ["a binary frame", frame(2, "x"), 1003],
  ["text that is no UTF-8", frame(1, Buffer.from([0xff])), 1007],
  ["a frame of a huge length", frame(1, "", { length: 2 ** 40 }), 1002],
  ["a masked frame", Buffer.from([0x81, 0x80, 0, 0, 0, 0]), 1002],
  ["a reserved bit", Buffer.from([0xc1, 0]), 1002],
  ["a continuation of nothing", frame(0, "x"), 1002],
  ["text within a message", Buffer.concat([frame(1, "a", { final: false }), frame(1, "b")]), 1002],
  [
    "fragments without an end",
    Buffer.concat([frame(1, "", { final: false }), ...Array(5_000).fill(frame(0, "", { final: false }))]),
    1002,
  ],
] as [string, Buffer, number][])
  test(`${name} ends the connection with ${code}`, async (t) => {
    const { far, ended, heard } = await peer(t);
    far.write(bad);
    assert.equal((await ended).code, code);
    assert.deepEqual(heard, []);
  });

test("a connection that is cut ends with 1006", async (t) => {
  const { far, ended } = await peer(t);
  far.destroy();
  assert.equal((await ended).code, 1006);
});

test("close sends its code, and is told once the other side has answered", async (t) => {
  const { socket, far, bytes, ended } = await peer(t);
  socket.close(4000, "why");
  socket.send("too late");
  const sent = await bytes(11);
  const mask = sent.subarray(2, 6);
  const payload = Buffer.from(sent.subarray(6).map((byte, i) => byte ^ mask[i & 3]!));
  assert.deepEqual([payload.readUInt16BE(), payload.toString("utf8", 2)], [4000, "why"]);
  far.write(closing(4000));
  assert.equal((await ended).code, 4000);
});

for (const [name, answer] of [
  ["a refusal", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"],
  [
    "a wrong accept",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
      "Sec-WebSocket-Accept: x\r\n\r\n",
  ],
  ["no HTTP", "hello\r\n\r\n"],
] as const)
  test(`${name} ends the attempt without an open`, async (t) => {
    const url = await listen(t, (far) => far.once("data", () => far.write(answer)));
    const socket = new NodeSocket(url, []);
    socket.onopen = () => assert.fail("expected no open");
    assert.equal((await watch(socket).ended).code, 1006);
  });

test("close before the upgrade ends the attempt", async (t) => {
  const socket = new NodeSocket(await listen(t, () => {}), []);
  const { ended } = watch(socket);
  socket.close();
  assert.equal((await ended).code, 1006);
});
