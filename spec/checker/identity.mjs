// Identity files (section 7.1).

import { scryptSync } from 'node:crypto';
import { ascii, base64, Malformed, reading, refuse, same, textOf, toHex, utf8, uuid } from './bytes.mjs';
import { isObject, parse } from './json.mjs';
import { decrypt, hash, isScalar } from './keys.mjs';

const LONGEST = 65536;
const CEILING = { log2n: 19, p: 4 };
const FIRST_LINE = /^blindpost-identity\/1 scrypt ([1-9][0-9]?) 8 ([1-9]) ([A-Za-z0-9+/]{22}==)$/;
const FIELDS = ['username', 'origin', 'user_id', 'root', 'ecdsa', 'ecdh', 'next_ecdsa', 'next_ecdh', 'retired'];

const damaged = (reason) => refuse('damaged_file', reason);

const readLines = async (file) => {
  const lines = file.split('\n');
  if (file.length > LONGEST || /[^\0-\x7f]/.test(file)) damaged('not ASCII, or too long');
  if (lines.length !== 4 || lines[3] !== '') damaged('not three lines');
  const sum = reading('damaged_file', () => base64(lines[2]));
  if (!same(sum, await hash('SHA-256', ascii(`${lines[0]}\n${lines[1]}\n`)))) damaged('another sum');
  const sealed = reading('damaged_file', () => base64(lines[1]));
  if (sealed.length < 12) damaged('no nonce');
  return { first: lines[0], sealed };
};

/** The cost and the salt, of which no more is computed if they are out of bounds. */
const readFirst = (line, floor) => {
  const found = FIRST_LINE.exec(line);
  if (!found) damaged('another first line');
  const [log2n, p] = [Number(found[1]), Number(found[2])];
  if (log2n < floor || log2n > CEILING.log2n || p > CEILING.p) damaged('a cost out of bounds');
  return { log2n, p, salt: reading('damaged_file', () => base64(found[3])) };
};

const deriveKey = (passphrase, { log2n, p, salt }) => {
  const N = 2 ** log2n;
  const options = { N, r: 8, p, maxmem: 2 * 128 * 8 * (N + p) };
  return new Uint8Array(scryptSync(utf8(passphrase.normalize('NFC')), salt, 32, options));
};

/** Bytes in base64url with its padding. */
const binary = (text, length) => {
  if (typeof text !== 'string' || !/^[A-Za-z0-9_-]*=*$/.test(text)) throw new Malformed('not base64url');
  const bytes = base64(text.replaceAll('-', '+').replaceAll('_', '/'));
  if (bytes.length !== length) throw new Malformed('of another length');
  return bytes;
};

const scalar = (text) => {
  const bytes = binary(text, 48);
  if (!isScalar(bytes)) throw new Malformed('not a scalar');
  return bytes;
};

const orNull = (read, value) => (value === null ? null : read(value));
const string = (value) => {
  if (typeof value !== 'string') throw new Malformed('not a text');
  return value;
};

const readRetired = (list) => {
  if (!Array.isArray(list)) throw new Malformed('no list of replaced keys');
  return list.map((pair) => {
    if (!Array.isArray(pair) || pair.length !== 2 || !Number.isInteger(pair[1])) throw new Malformed('not a pair');
    return [scalar(pair[0]), pair[1]];
  });
};

const readContent = (content) => {
  const said = parse(textOf(content));
  if (!isObject(said)) throw new Malformed('not an object');
  if (FIELDS.some((name) => !Object.hasOwn(said, name))) throw new Malformed('a field is missing');
  if (Object.keys(said).length !== FIELDS.length) throw new Malformed('an unknown field');
  const keys = { ecdsa: scalar(said.ecdsa), ecdh: scalar(said.ecdh) };
  if (same(keys.ecdsa, keys.ecdh)) throw new Malformed('one key for both purposes');
  return {
    ...keys,
    username: string(said.username),
    origin: orNull(string, said.origin),
    user_id: orNull(uuid, said.user_id),
    root: binary(said.root, 32),
    next_ecdsa: orNull(scalar, said.next_ecdsa),
    next_ecdh: orNull(scalar, said.next_ecdh),
    retired: readRetired(said.retired),
  };
};

/** What is in the file: `floor` is the least log2 N, which is 17 but in tests. */
export const openIdentity = async (file, passphrase, floor) => {
  const { first, sealed } = await readLines(file);
  const key = deriveKey(passphrase, readFirst(first, floor));
  const content = await decrypt(key, sealed.slice(0, 12), sealed.slice(12), ascii(`${first}\n`));
  if (!content) refuse('wrong_passphrase', 'the tag does not hold');
  return reading('damaged_file', () => readContent(content));
};

const shown = (value) => {
  if (value instanceof Uint8Array) return toHex(value);
  return Array.isArray(value) ? value.map(shown) : value;
};

export const checkIdentityFile = async (vector) => {
  const found = await openIdentity(vector.file, vector.passphrase, vector.floor_log2_n);
  if (vector.result !== 'ok') return;
  for (const name of FIELDS) {
    const expected = name === 'user_id' && vector.user_id !== null ? toHex(uuid(vector.user_id)) : vector[name];
    if (JSON.stringify(shown(found[name])) !== JSON.stringify(expected)) throw new Error(`another ${name}`);
  }
};
