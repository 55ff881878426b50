// Prekeys and the handshake (sections 9.1 and 9.2).

import { ml_kem1024 } from '@noble/post-quantum/ml-kem.js';
import { concat, EMPTY, refuse, same, u64be } from './bytes.mjs';
import { agree, derive, hash, keyOfPoint, transcript, verify } from './keys.mjs';

export const HEADER = 1713;
const KEM = 1568;
const MODULUS = 3329;
const LONGEST = 90 * 24 * 3600;
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

/** The fields of a prekey that its owner signs; `expires` is there for those that last. */
export const prekeyTranscript = (label, owner, { id, expires, key }) =>
  transcript(label, owner, id, ...(expires === undefined ? [] : [u64be(expires)]), key);

export const checkPrekey = async (label, owner, ownerKey, prekey, now) => {
  if (same(prekey.id, ZERO)) refuse('invalid_key', 'an id of zeros');
  await verify(ownerKey, prekey.signature, prekeyTranscript(label, owner, prekey));
  if (prekey.expires === undefined || now === undefined) return;
  if (prekey.expires <= now) refuse('expired', 'it has expired');
  if (prekey.expires > now + LONGEST) refuse('expired', 'over 90 days ahead');
};

export const encodeHeader = ({ point, signed, oneTime, kem, ciphertext }) =>
  concat(point, signed, oneTime ?? ZERO, kem, ciphertext);

export const decodeHeader = (bytes) => {
  if (bytes.length !== HEADER) refuse('invalid_header', 'of another length');
  const oneTime = bytes.slice(113, 129);
  return {
    key: keyOfPoint(bytes.slice(0, 97)),
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

/** Encapsulation with the randomness `m` of FIPS 203, which vectors tell. */
export const encapsulate = (key, m) => {
  const { cipherText, sharedSecret } = ml_kem1024.encapsulate(checkKemKey(key), m);
  return { ciphertext: cipherText, secret: sharedSecret };
};

export const kemKeyOf = (seed) => ml_kem1024.keygen(seed).publicKey;
