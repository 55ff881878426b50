// The content of messages (section 5.1), and padding (section 5.2).

import { base64, concat, hex, reading, readU64be, refuse, same, textOf, toUuid, u64be, u8, uuid } from './bytes.mjs';

export const SIZES = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];
const LAST_MOMENT = 253402300799999n;
const TEXT = 1;
const BYTES = 2;
const NOTICE = 3;

/** The size that a sender takes: the smallest that holds so much, or what a vector says to be padded further. */
export const sizeFor = (length, { padded_further: further }, found) => {
  const smallest = SIZES.find((size) => size >= length);
  if (!further) return smallest;
  if (found <= smallest) throw new Error('not padded further');
  return found;
};

export const pad = (data, length) => {
  if (data.length >= length) throw new RangeError('no room for the mark');
  return concat(data, u8(0x80), new Uint8Array(length - data.length - 1));
};

export const unpad = (padded) => {
  let mark = padded.length - 1;
  while (mark >= 0 && padded[mark] === 0) mark -= 1;
  if (mark < 0 || padded[mark] !== 0x80) refuse('invalid_padding', 'no mark');
  return padded.slice(0, mark);
};

export const encodeContent = ({ id, sentAt, series, number, kind, data }) =>
  concat(id, u64be(sentAt), series, u64be(number), u8(kind), data);

/** The content, strictly. */
export const decodeContent = (bytes) => {
  if (bytes.length < 41) refuse('invalid_content', 'too short');
  const content = {
    id: bytes.slice(0, 16),
    sentAt: readU64be(bytes, 16),
    series: bytes.slice(24, 32),
    number: readU64be(bytes, 32),
    kind: bytes[40],
    data: bytes.slice(41),
  };
  if (content.sentAt > LAST_MOMENT) refuse('invalid_content', 'after the year 9999');
  if (content.number >= 2n ** 53n) refuse('invalid_content', 'no such number');
  if (content.kind === TEXT) {
    reading('invalid_content', () => textOf(content.data));
  } else if (content.kind === NOTICE) {
    const { length } = content.data;
    if (length % 16 !== 0 || length > 64 * 16) refuse('invalid_content', 'not up to 64 ids');
    if (content.number !== 0n || content.series.some((byte) => byte !== 0)) refuse('invalid_content', 'counted');
  } else if (content.kind !== BYTES) refuse('invalid_content', 'an unknown kind');
  return content;
};

/** A content as vectors spell it. */
export const contentOf = (vector) => ({
  id: uuid(vector.client_message_id),
  sentAt: vector.sent_at_ms,
  series: hex(vector.series),
  number: vector.number,
  kind: vector.kind,
  data: base64(vector.data),
});

export const expectContent = (content, vector) => {
  const expected = contentOf(vector);
  if (!same(encodeContent(content), encodeContent(expected))) throw new Error(`another content: ${toUuid(content.id)}`);
};

export const checkContent = (vector) => {
  const encoded = base64(vector.encoded);
  const content = decodeContent(encoded);
  if (vector.result !== 'ok') return;
  expectContent(content, vector);
  if (!same(encodeContent(content), encoded)) throw new Error('encoded otherwise');
};

export const checkPadding = (vector) => {
  const padded = hex(vector.padded);
  const data = unpad(padded);
  if (vector.result !== 'ok') return;
  if (!same(data, hex(vector.data))) throw new Error('other data');
  if (!same(pad(data, padded.length), padded)) throw new Error('padded otherwise');
};
