// Bytes and text, read strictly (sections 1 and 1.3), and what is refused.

import { isUtf8 } from 'node:buffer';

export class Refusal extends Error {
  constructor(code, reason) {
    super(`${code}: ${reason}`);
    this.code = code;
  }
}

/** What cannot be decoded; where it stands says which refusal that is. */
export class Malformed extends Error {}

export const refuse = (code, reason) => {
  throw new Refusal(code, reason);
};

/** Does it; what is malformed in it is refused with this code. */
export const reading = (code, act) => {
  try {
    return act();
  } catch (error) {
    if (error instanceof Malformed) refuse(code, error.message);
    throw error;
  }
};

export const concat = (...parts) => new Uint8Array(Buffer.concat(parts));
export const same = (a, b) => Buffer.compare(a, b) === 0;
export const ascii = (text) => new Uint8Array(Buffer.from(text, 'latin1'));
export const utf8 = (text) => new TextEncoder().encode(text);

export const textOf = (bytes) => {
  if (!isUtf8(bytes)) throw new Malformed('not UTF-8');
  return Buffer.from(bytes).toString('utf8');
};

export const EMPTY = new Uint8Array(0);

const decode = (text, spelling) => {
  if (typeof text !== 'string') throw new Malformed(`not a text in ${spelling}`);
  const bytes = new Uint8Array(Buffer.from(text, spelling));
  // Node's decoder passes over what it does not understand: only the one spelling encodes to itself again.
  if (Buffer.from(bytes).toString(spelling) !== text) throw new Malformed(`not canonical ${spelling}`);
  return bytes;
};

export const base64 = (text) => decode(text, 'base64');
export const base64url = (text) => decode(text, 'base64url');
export const hex = (text) => decode(text, 'hex');
export const toBase64url = (bytes) => Buffer.from(bytes).toString('base64url');
export const toHex = (bytes) => Buffer.from(bytes).toString('hex');

export const u8 = (value) => Uint8Array.of(value);

export const u32be = (value) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return new Uint8Array(bytes);
};

export const u64be = (value) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return new Uint8Array(bytes);
};

export const readU32be = (bytes, at = 0) => Buffer.from(bytes).readUInt32BE(at);
export const readU64be = (bytes, at = 0) => Buffer.from(bytes).readBigUInt64BE(at);

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export const uuid = (text) => {
  if (!UUID.test(text)) throw new Malformed('not an id');
  return hex(text.replaceAll('-', ''));
};

export const toUuid = (bytes) => toHex(bytes).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
