// Prekeys as a router answers a claim (section 9.1).

import { base64, Malformed, reading, refuse, same, u64be, uuid } from './bytes.mjs';
import { checkKemKey, KEM } from './handshake.mjs';
import { isObject } from './json.mjs';
import { readPem, transcript, verify } from './keys.mjs';

const CLOCKS_DIFFER = 120;
const LONGEST_SIGNATURE = 104;
const TIME = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z$/;

const wrongExpiry = (reason) => refuse('invalid_expiry', reason);

/** Unix seconds, and whether there is a fraction; nothing where there is no time. */
const timeOf = (text) => {
  if (text === undefined || text === null) return undefined;
  const [, whole, fraction = ''] = TIME.exec(text) ?? [];
  const seconds = Date.parse(`${whole}Z`) / 1000;
  if (!Number.isInteger(seconds)) throw new Malformed('not a time');
  return { seconds, exact: /^0*$/.test(fraction) };
};

const prekeyOf = (said) => {
  if (!isObject(said) || typeof said.public_key !== 'string') throw new Malformed('not a prekey');
  const { id, public_key: key, expires, signature } = said;
  const prekey = { id: uuid(String(id)), key, expires: timeOf(expires), signature: base64(signature) };
  const { length } = prekey.signature;
  if (length === 0 || length > LONGEST_SIGNATURE) throw new Malformed('a signature of another length');
  return prekey;
};

const readBundle = (said) => {
  if (!isObject(said)) throw new Malformed('not an object');
  const kem = prekeyOf(said.kem_prekey);
  kem.key = base64(kem.key);
  if (kem.key.length !== KEM) throw new Malformed('a KEM key of another length');
  return {
    owner: uuid(String(said.user_id)),
    signed: prekeyOf(said.signed_prekey),
    oneTime: said.one_time_prekey === null ? undefined : prekeyOf(said.one_time_prekey),
    kem,
  };
};

/** The expiry as it is signed. */
const lasting = (expires, now) => {
  if (!expires || !expires.exact) wrongExpiry('no whole seconds');
  if (expires.seconds < now - CLOCKS_DIFFER) wrongExpiry('it has passed');
  return u64be(expires.seconds);
};

/** The keys of a bundle, all signed by their owner and none expired. */
export const openBundle = async (said, { owner, ecdsa, now }) => {
  const { signed, oneTime, kem, owner: claimed } = reading('malformed', () => readBundle(said));
  if (!same(claimed, owner)) refuse('another_user', 'a bundle of another user');
  const demand = ({ signature }, label, ...fields) => verify(ecdsa, signature, transcript(label, owner, ...fields));
  const keys = { signed: readPem(signed.key), kem: checkKemKey(kem.key) };
  await demand(signed, 'signed-prekey', signed.id, lasting(signed.expires, now), keys.signed);
  if (kem.expires) await demand(kem, 'last-resort-kem-prekey', kem.id, lasting(kem.expires, now), keys.kem);
  else await demand(kem, 'one-time-kem-prekey', kem.id, keys.kem);
  if (oneTime) {
    keys.oneTime = readPem(oneTime.key);
    await demand(oneTime, 'one-time-prekey', oneTime.id, keys.oneTime);
  }
  return keys;
};

export const checkPrekeys = async (vector, file) => {
  await openBundle(vector.bundle, { owner: uuid(file.user_id), ecdsa: readPem(file.ecdsa), now: file.now });
};
