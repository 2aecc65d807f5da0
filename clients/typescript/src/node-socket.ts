/**
 * A WebSocket (RFC 6455) on node:http, for versions of Node that have none. Text only, no extensions, and no
 * more of the browser's interface than the client uses.
 */

import { Buffer } from "node:buffer";
import { createHash, randomBytes } from "node:crypto";
import * as http from "node:http";
import * as https from "node:https";
import type { Duplex } from "node:stream";

import { MAX_MESSAGE_LENGTH } from "./messages.ts";

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const CONTINUATION = 0;
const TEXT = 1;
const BINARY = 2;
const CLOSE = 8;
const PING = 9;
const PONG = 10;
/** How long the other side may take to answer a close. */
const CLOSE_TIMEOUT_MS = 2_000;
/** How many fragments a message may have. */
const MAX_PARTS = 4_096;

export class NodeSocket {
  onopen: ((event: never) => void) | null = null;
  onmessage: ((event: never) => void) | null = null;
  onclose: ((event: never) => void) | null = null;
  onerror: ((event: never) => void) | null = null;

  #stream: Duplex | null = null;
  #request: http.ClientRequest;
  #chunks: Buffer[] = [];
  #length = 0;
  #parts: Buffer[] = [];
  #partsLength = 0;
  #ended = false;
  #closing = false;
  #code = 1006;
  #reason = "";

  constructor(url: string, protocols: string[]) {
    const key = randomBytes(16).toString("base64");
    this.#request = (url.startsWith("wss:") ? https : http).request(url.replace(/^ws/, "http"), {
      agent: false,
      headers: {
        Connection: "Upgrade",
        Upgrade: "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Protocol": protocols.join(", "),
      },
    });
    this.#request.on("upgrade", (answer, stream: Duplex, head: Buffer) => {
      const wanted = createHash("sha1")
        .update(key + GUID)
        .digest("base64");
      stream.on("error", () => {});
      this.#stream = stream;
      if (answer.headers["sec-websocket-accept"] !== wanted) return this.#end();
      if (this.#closing) return this.close(1000);
      stream.on("data", (data: Buffer) => this.#received(data));
      stream.on("close", () => this.#end());
      stream.on("end", () => this.#end());
      this.onopen?.({} as never);
      if (head.length) this.#received(head);
    });
    this.#request.on("response", (answer) => {
      answer.resume();
      this.#end();
    });
    this.#request.on("error", () => this.#end());
    this.#request.end();
  }

  send(text: string): void {
    if (this.#stream && !this.#closing) this.#write(TEXT, Buffer.from(text));
  }

  close(code = 1000, reason = ""): void {
    this.#closing = true;
    if (this.#stream === null) {
      this.#request.destroy();
      return this.#end();
    }
    const payload = Buffer.alloc(2 + Buffer.byteLength(reason));
    payload.writeUInt16BE(code);
    payload.write(reason, 2);
    this.#write(CLOSE, payload);
    setTimeout(() => this.#end(), CLOSE_TIMEOUT_MS).unref();
  }

  #write(opcode: number, payload: Buffer): void {
    const { length } = payload;
    const extended = length < 126 ? 0 : length < 65_536 ? 2 : 8;
    const frame = Buffer.alloc(2 + extended + 4 + length);
    frame[0] = 0x80 | opcode;
    frame[1] = 0x80 | (extended === 0 ? length : extended === 2 ? 126 : 127);
    if (extended === 2) frame.writeUInt16BE(length, 2);
    if (extended === 8) frame.writeBigUInt64BE(BigInt(length), 2);
    const mask = randomBytes(4);
    const start = 2 + extended + 4;
    mask.copy(frame, start - 4);
    for (let i = 0; i < length; i++) frame[start + i] = payload[i]! ^ mask[i & 3]!;
    this.#stream?.write(frame);
  }

  #received(data: Buffer): void {
    this.#chunks.push(data);
    this.#length += data.length;
    while (!this.#ended && this.#frame());
  }

  /** Takes one frame off what has come. False if none is whole. */
  #frame(): boolean {
    if (this.#length < 2) return false;
    const head = this.#peek(Math.min(this.#length, 10));
    const short = head[1]! & 0x7f;
    const start = short === 126 ? 4 : short === 127 ? 10 : 2;
    if (this.#length < start) return false;
    const length =
      short === 126 ? head.readUInt16BE(2) : short === 127 ? Number(head.readBigUInt64BE(2)) : short;
    if (head[0]! & 0x70 || head[1]! & 0x80 || this.#partsLength + length > MAX_MESSAGE_LENGTH) {
      this.#fail(1002);
      return false;
    }
    if (this.#length < start + length) return false;
    const whole = this.#peek(start + length);
    if (whole.length > start + length) this.#chunks[0] = whole.subarray(start + length);
    else this.#chunks.shift();
    this.#length -= start + length;
    this.#take(head[0]! & 0x0f, (head[0]! & 0x80) !== 0, whole.subarray(start, start + length));
    return true;
  }

  /** The first bytes of what has come, or more, in one piece. */
  #peek(bytes: number): Buffer {
    if (this.#chunks.length === 1 || this.#chunks[0]!.length >= bytes) return this.#chunks[0]!;
    const joined = Buffer.concat(this.#chunks);
    this.#chunks = [joined];
    return joined;
  }

  #take(opcode: number, final: boolean, payload: Buffer): void {
    if (opcode === PING) return this.#write(PONG, payload);
    if (opcode === PONG) return;
    if (opcode === CLOSE) {
      if (payload.length >= 2) {
        this.#code = payload.readUInt16BE();
        this.#reason = payload.toString("utf8", 2);
      } else this.#code = 1005;
      if (!this.#closing) this.#write(CLOSE, payload);
      return this.#end();
    }
    if (opcode === BINARY || opcode > BINARY) return this.#fail(1003);
    if ((opcode === CONTINUATION) !== this.#parts.length > 0) return this.#fail(1002);
    if (this.#parts.push(payload) > MAX_PARTS) return this.#fail(1002);
    this.#partsLength += payload.length;
    if (!final) return;
    const message = Buffer.concat(this.#parts);
    this.#parts = [];
    this.#partsLength = 0;
    let data: string;
    try {
      data = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(message);
    } catch {
      return this.#fail(1007);
    }
    this.onmessage?.({ data } as never);
  }

  #fail(code: number): void {
    this.close(code);
    this.#code = code;
    this.#end();
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#stream?.end();
    setTimeout(() => this.#stream?.destroy(), CLOSE_TIMEOUT_MS).unref();
    this.onclose?.({ code: this.#code, reason: this.#reason } as never);
  }
}
