// Prekeys and the handshake (sections 9.1 and 9.2).

import { ml_kem1024 } from '@noble/post-quantum/ml-kem.js';
import { concat, EMPTY, refuse, same } from './bytes.mjs';
import { agree, derive, hash, keyOfPoint, transcript } from './keys.mjs';

export const HEADER = 1713;
export const KEM = 1568;
const MODULUS = 3329;
const ZERO = new Uint8Array(16);

/** FIPS 203, section 7.2: the length, and each 12 bits of the first 1,536 bytes below the modulus. */
export const checkKemKey = (key) => {
  if (key.length !== KEM) refuse('invalid_key', 'an encapsulation key of another length');
  for (let at = 0; at < 1536; at += 3) {
    const low = key[at] | ((key[at + 1] & 0x0f) << 8);
    const high = (key[at + 1] >> 4) | (key[at + 2] << 4);
    if (low >= MODULUS || high >= MODULUS) refuse('invalid_key', 'a coefficient not below the modulus');
  }
  return key;
};

export const encodeHeader = ({ point, signed, oneTime, kem, ciphertext }) =>
  concat(point, signed, oneTime ?? ZERO, kem, ciphertext);

export const decodeHeader = (bytes) => {
  if (bytes.length !== HEADER) refuse('invalid_header', 'of another length');
  const oneTime = bytes.slice(113, 129);
  return {
    key: keyOfPoint(bytes.slice(0, 97), 'invalid_header'),
    signed: bytes.slice(97, 113),
    oneTime: same(oneTime, ZERO) ? undefined : oneTime,
    kem: bytes.slice(129, 145),
    ciphertext: bytes.slice(145),
  };
};

/** What both sides make of the same public input and the same secrets. A party is {id, ecdsa, ecdh}. */
const deriveSession = async ({ a, b, header, signed, oneTime, kem, secrets }) => {
  const names = [a.id, a.ecdsa, a.ecdh, b.id, b.ecdsa, b.ecdh, header, signed, oneTime ?? EMPTY, kem];
  const associated = await hash('SHA-384', transcript('session', ...names));
  const shared = concat(...secrets);
  const derived = await derive(EMPTY, shared, transcript('session-keys', associated), 112);
  return {
    associated,
    shared,
    root: derived.slice(0, 48),
    hka: derived.slice(48, 80),
    hkb: derived.slice(80),
    id: await hash('SHA-256', header),
  };
};

/** The beginner's side: `scalars` are those of the ECDH key and of E; keys of the bundle are DER. */
export const beginAsA = async ({ a, b, header, bundle, scalars, kemSecret }) => {
  const { signed, oneTime, kem } = bundle;
  const secrets = [
    await agree(scalars.ecdh, signed),
    await agree(scalars.e, b.ecdh),
    await agree(scalars.e, signed),
    ...(oneTime ? [await agree(scalars.e, oneTime)] : []),
    kemSecret,
  ];
  return deriveSession({ a, b, header, signed, oneTime, kem, secrets });
};

/** The other side: `scalars` are those of the ECDH key and of the prekeys, `seed` is the KEM key's. */
export const beginAsB = async ({ a, b, header, bundle, scalars, seed }) => {
  const { key, ciphertext } = decodeHeader(header);
  const { signed, oneTime } = bundle;
  const { publicKey: kem, secretKey } = ml_kem1024.keygen(seed);
  const secrets = [
    await agree(scalars.signed, a.ecdh),
    await agree(scalars.ecdh, key),
    await agree(scalars.signed, key),
    ...(oneTime ? [await agree(scalars.oneTime, key)] : []),
    ml_kem1024.decapsulate(ciphertext, secretKey),
  ];
  return deriveSession({ a, b, header, signed, oneTime, kem, secrets });
};

export const kemKeyOf = (seed) => ml_kem1024.keygen(seed).publicKey;
