// What is signed, each by whom (section 2, and 9.1 for prekeys).

import { ascii, base64, readU32be, refuse, same, textOf } from './bytes.mjs';
import { checkKemKey } from './handshake.mjs';
import { checkDer, readPem, transcript, verify } from './keys.mjs';

const id = (field) => field.length === 16 || refuse('invalid_transcript', 'not an id');
const key = (field) => checkDer(field);
const name = (field) => /^[A-Za-z0-9_]{3,50}$/.test(textOf(field)) || refuse('invalid_transcript', 'not a name');
const any = () => true;
const expiry = (field) => field.length === 8 || refuse('invalid_transcript', 'not a u64be');
const kem = (field) => checkKemKey(field);
const prekey = (field) => id(field) && (field.some((byte) => byte) || refuse('invalid_transcript', 'an id of zeros'));

// The fields of each label, and which of them is the signer, where one of them is.
const TABLE = {
  register: { fields: [name, key, key], signers: [1] },
  'rotate-ecdsa': { fields: [id, key, key], signers: [1, 2] },
  login: { fields: [any, any] },
  'delete-account': { fields: [id] },
  'signed-prekey': { fields: [id, prekey, expiry, key] },
  'one-time-prekey': { fields: [id, prekey, key] },
  'last-resort-kem-prekey': { fields: [id, prekey, expiry, kem] },
  'one-time-kem-prekey': { fields: [id, prekey, kem] },
};

const PREFIX = ascii('blindpost/v1/');

export const decodeTranscript = (bytes) => {
  const zero = bytes.indexOf(0);
  if (zero < 0 || !same(bytes.slice(0, PREFIX.length), PREFIX)) refuse('invalid_transcript', 'no label');
  const label = Buffer.from(bytes.slice(PREFIX.length, zero)).toString('latin1');
  const fields = [];
  let at = zero + 1;
  while (at < bytes.length) {
    if (at + 4 > bytes.length) refuse('invalid_transcript', 'cut');
    const end = at + 4 + readU32be(bytes, at);
    if (end > bytes.length) refuse('invalid_transcript', 'cut');
    fields.push(bytes.slice(at + 4, end));
    at = end;
  }
  return { label, fields };
};

export const checkTranscript = async (vector) => {
  const bytes = base64(vector.transcript);
  const { label, fields } = decodeTranscript(bytes);
  if (!Object.hasOwn(TABLE, label)) throw new Error(`nothing is signed under the label ${label}`);
  if (vector.name.split(',')[0] !== label) throw new Error(`it is a ${label}`);
  const row = TABLE[label];
  if (fields.length !== row.fields.length) throw new Error('another number of fields');
  row.fields.forEach((check, index) => check(fields[index]));
  if (!same(transcript(label, ...fields), bytes)) throw new Error('encoded otherwise');
  const signer = readPem(vector.key);
  if (row.signers && !row.signers.some((index) => same(fields[index], signer))) throw new Error('another signs it');
  await verify(signer, base64(vector.signature), bytes);
};

