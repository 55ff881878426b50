// Messages of sessions (section 9.4).

import { concat, refuse, u8 } from './bytes.mjs';
import { HEADER } from './handshake.mjs';
import { decodeContent, encodeContent, pad, SIZES, unpad } from './padding.mjs';
import * as ratchet from './ratchet.mjs';

const LATER = 2;
const FIRST = 3;
const LONGEST_DATA = 63647;
const OUTSIDE = ratchet.HEAD + 16;

/** The prefix: with the handshake's header until a message of the session opened. */
export const prefixOf = (header) => (header ? concat(u8(FIRST), header) : u8(LATER));

/** The padded content, so that the whole message has the smallest size that holds it. */
export const padded = (prefix, content) => {
  if (content.data.length > LONGEST_DATA) throw new RangeError('too much data');
  const bytes = encodeContent(content);
  const outside = prefix.length + OUTSIDE;
  return pad(bytes, SIZES.find((size) => size >= outside + bytes.length + 1) - outside);
};

export const split = (message) => {
  if (!SIZES.includes(message.length)) refuse('cannot_decrypt', 'not a size');
  const length = { [LATER]: 1, [FIRST]: 1 + HEADER }[message[0]];
  if (length === undefined) refuse('cannot_decrypt', 'another version');
  const prefix = message.slice(0, length);
  return { prefix, header: message[0] === FIRST ? prefix.slice(1) : undefined, sealed: message.slice(length) };
};

export const readPlaintext = (plaintext) => decodeContent(unpad(plaintext), { notices: true });
