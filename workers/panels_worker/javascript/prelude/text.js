// TextEncoder and TextDecoder for UTF-8, as the Encoding Standard has them.
class TextEncoder {
  get encoding() {
    return "utf-8";
  }
  encode(text = "") {
    // each character that is escaped is one byte of UTF-8
    const escaped = encodeURIComponent(toWellFormed($String(text)));
    const bytes = [];
    for (let index = 0; index < escaped.length; index++) {
      if (escaped[index] === "%") {
        bytes[bytes.length] = parseInteger(escaped[index + 1] + escaped[index + 2], 16);
        index += 2;
      } else bytes[bytes.length] = charCodeAt(escaped, index);
    }
    return new $Uint8Array(bytes);
  }
  encodeInto(text, target) {
    let read = 0, written = 0;
    for (const character of toWellFormed($String(text))) {
      const bytes = this.encode(character);
      if (written + bytes.length > target.length) break;
      for (let index = 0; index < bytes.length; index++) target[written++] = bytes[index];
      read += character.length;
    }
    return { read, written };
  }
}

class TextDecoder {
  #fatal;
  #ignoreBOM;
  constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
    const name = toLowerCase(trim($String(label)));
    if (name !== "utf-8" && name !== "utf8" && name !== "unicode-1-1-utf-8") {
      throw new $RangeError(`expected the encoding utf-8, got ${stringify(name)}`);
    }
    this.#fatal = !!fatal;
    this.#ignoreBOM = !!ignoreBOM;
  }
  get encoding() {
    return "utf-8";
  }
  get fatal() {
    return this.#fatal;
  }
  get ignoreBOM() {
    return this.#ignoreBOM;
  }
  decode(input = new $Uint8Array(0), { stream = false } = {}) {
    if (stream) throw new $TypeError("TextDecoder: expected the whole input; streams are not available");
    const bytes = isView(input)
      ? new $Uint8Array(input.buffer, input.byteOffset, input.byteLength)
      : new $Uint8Array(input);
    let text = "", at = 0;
    while (at < bytes.length) {
      const first = bytes[at++];
      if (first < 0x80) {
        text += fromCodePoint(first);
        continue;
      }
      const more = first < 0xc2 || first > 0xf4 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
      let point = more ? first & (0x3f >> more) : -1;
      for (let index = 0; index < more; index++) {
        const next = bytes[at];
        // the bounds of the second byte exclude overlong forms, surrogates and what is beyond Unicode
        const low = index ? 0x80 : first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
        const high = index ? 0xbf : first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
        if (next === undefined || next < low || next > high) {
          point = -1;
          break;
        }
        point = (point << 6) | (next & 0x3f);
        at++;
      }
      if (point < 0 && this.#fatal) throw new $TypeError("TextDecoder: expected valid UTF-8");
      if (point !== 0xfeff || text || this.#ignoreBOM) text += point < 0 ? "\ufffd" : fromCodePoint(point);
    }
    return text;
  }
}
