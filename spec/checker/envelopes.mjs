// Envelopes (section 5).

import { base64, concat, EMPTY, hex, refuse, Refusal, same, u8, uuid } from './bytes.mjs';
import {
  agree, decrypt, derive, encrypt, keyOfPoint, publicOf, readPem, transcript, verify,
} from './keys.mjs';
import { decodeContent, encodeContent, expectContent, pad, SIZES, sizeFor, unpad } from './padding.mjs';

const VERSION = 1;
const HEAD = 98;
const LONGEST_SIGNATURE = 104;

const sealingKey = async (shared, names) => {
  const derived = await derive(EMPTY, shared, transcript('message-key', ...names), 44);
  return [derived.slice(0, 32), derived.slice(32)];
};

const openStrictly = async (envelope, { sender, senderKey, recipient, recipientKey, scalar }) => {
  if (!SIZES.includes(envelope.length) || envelope[0] !== VERSION) refuse('length', 'not a size, or another version');
  const head = envelope.slice(0, HEAD);
  const oneTimeKey = keyOfPoint(head.slice(1));
  const names = [sender, recipient, senderKey, recipientKey, oneTimeKey];
  const [key, nonce] = await sealingKey(await agree(scalar, oneTimeKey), names);
  const plaintext = await decrypt(key, nonce, envelope.slice(HEAD), head);
  if (!plaintext) refuse('decryption', 'the tag does not hold');
  const filled = unpad(plaintext);
  if (filled.length === 0 || filled.length < 1 + filled[0]) refuse('signature', 'cut');
  const signature = filled.slice(1, 1 + filled[0]);
  const content = filled.slice(1 + filled[0]);
  await verify(senderKey, signature, transcript('message', ...names, content));
  return { content: decodeContent(content), head, key, nonce, signature };
};

/** The content, or one error for whatever fails. */
export const open = async (envelope, parties) => {
  try {
    return await openStrictly(envelope, parties);
  } catch (error) {
    if (error instanceof Refusal) refuse('cannot_decrypt', error.message);
    throw error;
  }
};

/** The envelope made again of what was in it. */
const seal = async ({ content, head, key, nonce, signature }, vector, length) => {
  const bytes = encodeContent(content);
  const outside = HEAD + 16;
  const size = sizeFor(outside + 1 + LONGEST_SIGNATURE + bytes.length + 1, vector, length);
  const plaintext = pad(concat(u8(signature.length), signature, bytes), size - outside);
  return concat(head, await encrypt(key, nonce, plaintext, head));
};

export const checkEnvelope = async (vector, file) => {
  const scalar = hex(file.recipient_ecdh_scalar);
  const recipientKey = readPem(file.recipient_ecdh);
  if (!same(await publicOf(scalar), recipientKey)) throw new Error('the scalar is of another key');
  const envelope = base64(vector.envelope);
  const opened = await open(envelope, {
    sender: uuid(file.sender_id),
    senderKey: readPem(file.sender_ecdsa),
    recipient: uuid(file.recipient_id),
    recipientKey,
    scalar,
  });
  if (vector.result !== 'ok') return;
  expectContent(opened.content, vector);
  if (!same(await seal(opened, vector, envelope.length), envelope)) throw new Error('sealed otherwise');
};
