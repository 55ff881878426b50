// Sessions: handshakes with their first message (section 9.2), and messages (section 9.4).

import { base64, concat, EMPTY, hex, Refusal, refuse, same, toHex, u8, uuid } from './bytes.mjs';
import { beginAsA, beginAsB, checkKemKey, decodeHeader, encodeHeader, HEADER, kemKeyOf } from './handshake.mjs';
import { publicOf, readPem } from './keys.mjs';
import { decodeContent, encodeContent, expectContent, pad, SIZES, sizeFor, unpad } from './padding.mjs';
import * as ratchet from './ratchet.mjs';

const LATER = 2;
const FIRST = 3;
const LONGEST_DATA = 63631;
const OUTSIDE = ratchet.HEAD + 16;

/** The prefix: with the handshake's header until a message of the session opened. */
export const prefixOf = (header) => (header ? concat(u8(FIRST), header) : u8(LATER));

/** The padded content, so that the whole message has the size that its sender takes. */
const padded = (prefix, content, vector, length) => {
  if (content.data.length > LONGEST_DATA) throw new RangeError('too much data');
  const bytes = encodeContent(content);
  const outside = prefix.length + OUTSIDE;
  return pad(bytes, sizeFor(outside + bytes.length + 1, vector, length) - outside);
};

export const split = (message) => {
  if (!SIZES.includes(message.length)) refuse('cannot_decrypt', 'not a size');
  const length = { [LATER]: 1, [FIRST]: 1 + HEADER }[message[0]];
  if (length === undefined) refuse('cannot_decrypt', 'another version');
  const prefix = message.slice(0, length);
  return { prefix, header: message[0] === FIRST ? prefix.slice(1) : undefined, sealed: message.slice(length) };
};

export const readPlaintext = (plaintext) => decodeContent(unpad(plaintext));

const party = async ({ user_id: id, ecdsa, ecdh, ecdh_scalar: scalar }) => {
  const found = { id: uuid(id), ecdsa: readPem(ecdsa), ecdh: readPem(ecdh) };
  if (!same(await publicOf(hex(scalar)), found.ecdh)) throw new Error('the scalar is of another key');
  return found;
};

/** What a file of vectors tells of the two parties and of the prekeys. */
const readFile = async (file) => {
  const { responder } = file;
  const seed = hex(responder.kem_prekey_seed);
  const scalars = {
    ecdh: hex(responder.ecdh_scalar),
    signed: hex(responder.signed_prekey_scalar),
    oneTime: hex(responder.one_time_prekey_scalar),
  };
  const kem = checkKemKey(base64(responder.kem_prekey));
  if (!same(kemKeyOf(seed), kem)) throw new Error('the seed is of another KEM key');
  return {
    a: await party(file.initiator),
    b: await party(responder),
    ids: { signed: uuid(responder.signed_prekey_id), kem: uuid(responder.kem_prekey_id) },
    oneTimeId: uuid(responder.one_time_prekey_id),
    bundle: { signed: await publicOf(scalars.signed), kem },
    oneTimeKey: await publicOf(scalars.oneTime),
    scalars,
    seed,
    mine: { ecdh: hex(file.initiator.ecdh_scalar), e: hex(file.ephemeral_scalar) },
    ciphertext: base64(file.kem_ciphertext),
    kemSecret: hex(file.kem_secret),
    ratchetScalar: hex(file.initiator_ratchet_scalar),
  };
};

/** The beginner's session: its header, keys and state. */
const begin = async (known, withOneTime) => {
  const bundle = { ...known.bundle, oneTime: withOneTime ? known.oneTimeKey : undefined };
  const point = (await publicOf(known.mine.e)).slice(-97);
  const oneTime = withOneTime ? known.oneTimeId : undefined;
  const header = encodeHeader({ point, ...known.ids, oneTime, ciphertext: known.ciphertext });
  const { a, b, mine: scalars, kemSecret } = known;
  const keys = await beginAsA({ a, b, header, bundle, scalars, kemSecret });
  return { header, keys, state: await ratchet.stateOfA(keys, bundle.signed, known.ratchetScalar) };
};

/** The other side's session from the header alone. */
const answer = async (known, header, hasOneTime = true) => {
  const named = decodeHeader(header);
  const { ids } = known;
  if (!same(named.signed, ids.signed) || !same(named.kem, ids.kem)) refuse('cannot_decrypt', 'of other prekeys');
  if (named.oneTime && !(hasOneTime && same(named.oneTime, known.oneTimeId))) {
    refuse('one_time_prekey_missing', 'its one-time prekey is not there');
  }
  const bundle = { ...known.bundle, oneTime: named.oneTime && known.oneTimeKey };
  const { a, b, scalars, seed } = known;
  const keys = await beginAsB({ a, b, header, bundle, scalars, seed });
  return { keys, state: ratchet.stateOfB(keys, scalars.signed) };
};

const asOneError = async (act) => {
  try {
    return await act();
  } catch (error) {
    if (error instanceof Refusal) refuse('cannot_decrypt', error.message);
    throw error;
  }
};

/** Opens a message in a session, or, if there is none, in the one that it begins. */
const open = (known, session, message, turnScalar) =>
  asOneError(async () => {
    const { prefix, header, sealed } = split(message);
    const { keys, state } = session ?? (header ? await answer(known, header) : refuse('cannot_decrypt', 'no session'));
    if (header && session && !same((await answer(known, header)).keys.id, keys.id)) {
      refuse('cannot_decrypt', 'of another session');
    }
    const fresh = async () => turnScalar ?? known.ratchetScalar;
    const opened = await ratchet.openSealed(state, { sealed, associated: keys.associated, prefix, fresh });
    return { content: readPlaintext(opened.plaintext), session: { keys, state: opened.state } };
  });

/** The same message again, from its sender's state. */
const expectSealed = async ({ keys, state }, message, content, vector = {}) => {
  const { prefix, sealed } = split(message);
  const nonce = sealed.slice(0, 12);
  const plaintext = padded(prefix, content, vector, message.length);
  const made = await ratchet.seal(state, { nonce, associated: keys.associated, prefix, plaintext });
  if (!same(concat(prefix, made.sealed), message)) throw new Error('sealed otherwise');
  return { keys, state: made.state };
};

const expectKeys = (keys, vector) => {
  const expected = {
    session_id: keys.id,
    associated: keys.associated,
    root: keys.root,
    initiator_header_key: keys.hka,
    responder_header_key: keys.hkb,
  };
  for (const [name, value] of Object.entries(expected)) {
    if (toHex(value) !== vector[name]) throw new Error(`another ${name}`);
  }
};

export const checkHandshake = async (vector, file) => {
  const known = await readFile(file);
  const header = base64(vector.header);
  const answered = await answer(known, header, vector.responder_has_one_time_prekey);
  expectKeys(answered.keys, vector);
  const message = base64(vector.first_message);
  if (!same(split(message).header ?? EMPTY, header)) throw new Error('the first message has another header');
  const opened = await open(known, answered, message);
  if (vector.result !== 'ok') return;
  const begun = await begin(known, vector.responder_has_one_time_prekey);
  if (!same(begun.header, header)) throw new Error('another header');
  expectKeys(begun.keys, vector);
  await expectSealed(begun, message, opened.content);
};

/** The sender's state: of the beginner before an answer, or after the turn that an answer brought. */
const senderOf = async (known, vector) => {
  let begun = await begin(known, true);
  for (const { message, turn_scalar: theirs } of vector.opened_before) {
    const { content } = await open(known, undefined, base64(message));
    begun = { ...begun, ...(await expectSealed(begun, base64(message), content)) };
    if (vector.sender_turn_scalar === undefined) continue;
    const scalar = hex(vector.sender_turn_scalar);
    begun.state = await ratchet.turn(begun.state, await publicOf(hex(theirs)), scalar);
  }
  return begun;
};

export const checkSession = async (vector, file) => {
  const known = await readFile(file);
  let session = { initiator: await begin(known, true), responder: undefined }[vector.reader];
  for (const { message, turn_scalar: scalar } of vector.opened_before) {
    ({ session } = await open(known, session, base64(message), hex(scalar)));
  }
  const message = base64(vector.message);
  const { content } = await open(known, session, message);
  if (vector.result !== 'ok') return;
  expectContent(content, vector);
  if (vector.reader === 'responder') await expectSealed(await senderOf(known, vector), message, content, vector);
};
