// Login challenges (section 3) and proofs of possession (section 3.1).

import {
  ascii, base64, base64url, concat, Malformed, reading, refuse, same, textOf, toBase64url, u8, utf8,
} from './bytes.mjs';
import { isObject, parse } from './json.mjs';
import { hash, onCurve, readPem, transcript, verify } from './keys.mjs';

const { subtle } = globalThis.crypto;

const bad = (reason) => refuse('invalid_challenge', reason);

export const readChallenge = (text) => {
  if ([...text].length > 512) bad('over 512 characters');
  const fields = text.split('|');
  if (fields.length !== 5) bad('not five fields');
  const [label, origin, username, nonce, expiry] = fields;
  if (label !== 'blindpost/v1/login') bad('another label');
  if (reading('invalid_challenge', () => base64url(nonce)).length !== 32) bad('not a nonce');
  if (!/^(?:0|[1-9][0-9]{0,9})$/.test(expiry)) bad('not an expiry');
  return { origin, username, nonce, expiry: Number(expiry) };
};

/** The canonical form of an origin. */
const originOf = (text) => {
  if (!/^https?:\/\/[^/?#@\\\s]+\/?$/i.test(text) || !URL.canParse(text)) bad('not an origin');
  return new URL(text).origin;
};

/** All that a client looks at before it signs, in order. */
export const checkChallengeFor = (text, { origin, username, now }) => {
  const challenge = readChallenge(text);
  if (originOf(challenge.origin) !== origin) refuse('another_origin', challenge.origin);
  if (challenge.username !== username) refuse('another_name', challenge.username);
  if (challenge.expiry - now >= 180 || now - challenge.expiry >= 120) refuse('another_time', challenge.expiry);
  return challenge;
};

/** What a client signs: the challenge as it came, with the thumbprint of the session's key. */
export const checkLogin = async (vector, file) => {
  checkChallengeFor(vector.challenge, vector);
  const signed = transcript('login', utf8(vector.challenge), ascii(file.thumbprint));
  if (vector.result !== 'ok') return;
  if (!same(signed, base64(vector.signed))) throw new Error('something else is signed');
  await verify(readPem(file.ecdsa), base64(vector.signature), signed);
};

const mustBe = (what, value, expected) => {
  if (value !== expected) throw new Error(`another ${what}: ${value}`);
};

export const checkChallenge = (vector) => {
  const challenge = readChallenge(vector.text);
  if (vector.result !== 'ok') return;
  for (const name of ['origin', 'username', 'nonce', 'expiry']) mustBe(name, challenge[name], vector[name]);
};

const CURVES = {
  ES256: { crv: 'P-256', size: 32, hash: 'SHA-256' },
  ES384: { crv: 'P-384', size: 48, hash: 'SHA-384' },
};

const wrong = (reason) => refuse('invalid_proof', reason);

const readPart = (part) => {
  const value = parse(textOf(base64url(part)));
  if (!isObject(value)) throw new Malformed('not an object');
  return value;
};

const digest = async (data) => toBase64url(await hash('SHA-256', data));

const thumbprint = ({ crv, kty, x, y }) => digest(utf8(JSON.stringify({ crv, kty, x, y })));

const checkSignature = async (header, parts) => {
  if (header.typ !== 'dpop+jwt' || !Object.hasOwn(CURVES, header.alg)) wrong('another type or algorithm');
  if (Object.hasOwn(header, 'crit')) wrong('a critical extension');
  const { jwk } = header;
  const curve = CURVES[header.alg];
  if (!isObject(jwk) || jwk.kty !== 'EC' || jwk.crv !== curve.crv || Object.hasOwn(jwk, 'd')) wrong('not a public key');
  const [x, y, signature] = reading('invalid_proof', () => [jwk.x, jwk.y, parts[2]].map(base64url));
  if (x.length !== curve.size || y.length !== curve.size) wrong('coordinates of another length');
  if (!onCurve(curve.crv, x, y)) wrong('not on the curve');
  if (signature.length !== 2 * curve.size) wrong('a signature of another length');
  const algorithm = { name: 'ECDSA', namedCurve: curve.crv };
  const key = await subtle.importKey('raw', concat(u8(4), x, y), algorithm, false, ['verify']);
  const signed = ascii(`${parts[0]}.${parts[1]}`);
  if (!(await subtle.verify({ name: 'ECDSA', hash: curve.hash }, key, signature, signed))) wrong('not signed');
  return thumbprint(jwk);
};

const DEFAULT_PORTS = { http: '80', https: '443' };

/** A URL without query and fragment, its origin spelt in one way, its path as it is. */
const spelt = (url) => {
  const found = /^([a-z]+):\/\/([^/?#:@]+)(?::([0-9]+))?([^?#]*)/i.exec(url);
  if (!found) return undefined;
  const [, scheme, host, port, path] = found;
  const known = scheme.toLowerCase();
  return [known, host.toLowerCase(), port ?? DEFAULT_PORTS[known], path].join(' ');
};

const checkClaims = async (claims, { method, url, body, token, now }) => {
  if (typeof claims.jti !== 'string' || !/^[ -~]{1,128}$/.test(claims.jti)) wrong('jti');
  if (claims.htm !== method) wrong('htm');
  if (typeof claims.htu !== 'string' || !spelt(claims.htu) || spelt(claims.htu) !== spelt(url)) wrong('htu');
  if (typeof claims.iat !== 'number' || claims.iat < now - 60 || claims.iat > now + 5) wrong('iat');
  if (token === null ? Object.hasOwn(claims, 'ath') : claims.ath !== (await digest(ascii(token)))) wrong('ath');
  if (body.length > 0 || Object.hasOwn(claims, 'bd')) {
    if (claims.bd !== (await digest(body))) wrong('bd');
  }
};

/** The thumbprint of the key that the proof shows, or `invalid`. */
export const readProof = async (proof, request) => {
  const parts = proof.split('.');
  if (proof.length > 8192 || parts.length !== 3 || parts[0].length > 1024) wrong('too long, or not three parts');
  const [header, claims] = reading('invalid_proof', () => parts.slice(0, 2).map(readPart));
  const print = await checkSignature(header, parts);
  await checkClaims(claims, request);
  return print;
};

export const checkProof = async (vector) => {
  const { method, url, token, now } = vector;
  const print = await readProof(vector.proof, { method, url, token, now, body: base64(vector.body) });
  if (vector.result === 'ok') mustBe('thumbprint', print, vector.thumbprint);
};
