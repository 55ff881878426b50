// Public keys, signatures and key agreement on P-384 (sections 1, 1.1 and 1.2).

import { ascii, base64, base64url, concat, hex, Malformed, reading, refuse, same, toHex, u8, u32be } from './bytes.mjs';

const { subtle } = globalThis.crypto;

const HEADER = hex('3076301006072a8648ce3d020106052b81040022036200');
const PKCS8 = hex('304e020100301006072a8648ce3d020106052b8104002204373035020101' + '0430');
const FIELDS = {
  'P-256': {
    p: 2n ** 256n - 2n ** 224n + 2n ** 192n + 2n ** 96n - 1n,
    b: 0x5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604bn,
  },
  'P-384': {
    p: 2n ** 384n - 2n ** 128n - 2n ** 96n + 2n ** 32n - 1n,
    b: 0xb3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aefn,
  },
};
const ORDER = 0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973n;

export const number = (bytes) => BigInt(`0x0${toHex(bytes)}`);
const scalarBytes = (value) => hex(value.toString(16).padStart(96, '0'));

/** Whether y^2 = x^3 - 3x + b, with both below p. */
export const onCurve = (curve, xBytes, yBytes) => {
  const { p, b } = FIELDS[curve];
  const [x, y] = [number(xBytes), number(yBytes)];
  return x < p && y < p && (y * y - (x * x * x - 3n * x + b)) % p === 0n;
};

/** The DER of a point of 97 bytes, which is uncompressed and on the curve. */
export const keyOfPoint = (point, code = 'invalid_key') => {
  if (point.length !== 97 || point[0] !== 4) refuse(code, 'not an uncompressed point of P-384');
  if (!onCurve('P-384', point.slice(1, 49), point.slice(49))) refuse(code, 'not on the curve');
  return concat(HEADER, point);
};

export const pointOf = (der) => der.slice(HEADER.length);

export const checkDer = (der) => {
  if (der.length !== 120 || !same(der.slice(0, HEADER.length), HEADER)) refuse('invalid_key', 'not the one header');
  keyOfPoint(pointOf(der));
  return der;
};

const PEM = /^-----BEGIN PUBLIC KEY-----\r?\n([A-Za-z0-9+/=\r\n]+?)\r?\n-----END PUBLIC KEY-----(?:\r?\n)?$/;

/** The DER of a PEM block, or `invalid_key`. */
export const readPem = (pem) => {
  if (typeof pem !== 'string' || pem.length > 1024) refuse('invalid_key', 'no text of at most 1,024 characters');
  const found = PEM.exec(pem);
  if (!found) refuse('invalid_key', 'not one PEM block alone');
  const lines = found[1].split(/\r?\n/);
  if (lines.some((line) => line === '' || line.includes('\r'))) refuse('invalid_key', 'a line end out of place');
  return checkDer(reading('invalid_key', () => base64(lines.join(''))));
};

/** Whether these 48 bytes are a private key: neither zero nor the order or more. */
export const isScalar = (bytes) => number(bytes) > 0n && number(bytes) < ORDER;

const integer = (der, at) => {
  const length = der[at + 1];
  const bytes = der.slice(at + 2, at + 2 + length);
  if (der[at] !== 2 || length > 49 || length === 0 || bytes.length !== length) throw new Malformed('not an integer');
  if (bytes[0] & 0x80) throw new Malformed('negative');
  if (length > 1 && bytes[0] === 0 && !(bytes[1] & 0x80)) throw new Malformed('a leading zero');
  const value = number(bytes);
  if (value < 1n || value >= ORDER) throw new Malformed('out of range');
  return [value, at + 2 + length];
};

/** r || s, 96 bytes, of a signature in its only form. */
export const rawSignature = (der) =>
  reading('invalid_signature', () => {
    if (der.length > 104 || der[0] !== 0x30 || der[1] !== der.length - 2) throw new Malformed('not a sequence');
    const [r, middle] = integer(der, 2);
    const [s, end] = integer(der, middle);
    if (end !== der.length) throw new Malformed('something after it');
    return concat(scalarBytes(r), scalarBytes(s));
  });

export const verify = async (der, signature, data) => {
  const raw = rawSignature(signature);
  const key = await subtle.importKey('raw', pointOf(der), { name: 'ECDSA', namedCurve: 'P-384' }, false, ['verify']);
  if (!(await subtle.verify({ name: 'ECDSA', hash: 'SHA-384' }, key, raw, data))) {
    refuse('invalid_signature', 'it does not verify');
  }
};

const ECDH = { name: 'ECDH', namedCurve: 'P-384' };
const privateKey = (scalar) => subtle.importKey('pkcs8', concat(PKCS8, scalar), ECDH, true, ['deriveBits']);

export const publicOf = async (scalar) => {
  const { x, y } = await subtle.exportKey('jwk', await privateKey(scalar));
  return keyOfPoint(concat(u8(4), base64url(x), base64url(y)));
};

export const agree = async (scalar, der) => {
  const theirs = await subtle.importKey('raw', pointOf(der), ECDH, false, []);
  return new Uint8Array(await subtle.deriveBits({ ...ECDH, public: theirs }, await privateKey(scalar), 384));
};

export const derive = async (salt, secret, info, length) => {
  const key = await subtle.importKey('raw', secret, 'HKDF', false, ['deriveBits']);
  return new Uint8Array(await subtle.deriveBits({ name: 'HKDF', hash: 'SHA-384', salt, info }, key, length * 8));
};

export const hash = async (name, data) => new Uint8Array(await subtle.digest(name, data));

export const hmac = async (secret, data) => {
  const key = await subtle.importKey('raw', secret, { name: 'HMAC', hash: 'SHA-384' }, false, ['sign']);
  return new Uint8Array(await subtle.sign('HMAC', key, data));
};

const aesKey = (key) => subtle.importKey('raw', key, 'AES-GCM', false, ['encrypt', 'decrypt']);

export const encrypt = async (key, iv, data, additionalData) =>
  new Uint8Array(await subtle.encrypt({ name: 'AES-GCM', iv, additionalData }, await aesKey(key), data));

/** The plaintext, or nothing if the tag does not hold. */
export const decrypt = async (key, iv, data, additionalData) => {
  if (data.length < 16) return undefined;
  try {
    return new Uint8Array(await subtle.decrypt({ name: 'AES-GCM', iv, additionalData }, await aesKey(key), data));
  } catch (error) {
    if (error.name !== 'OperationError') throw error;
    return undefined;
  }
};

const LABEL = /^[a-z0-9-]+$/;

/** Section 2. */
export const transcript = (label, ...fields) => {
  if (!LABEL.test(label)) throw new TypeError('not a label');
  return concat(ascii(`blindpost/v1/${label}\0`), ...fields.flatMap((field) => [u32be(field.length), field]));
};
