// The keys of a person, as a router gives them (section 6).

import { base64, Malformed, reading, refuse, same, utf8, uuid } from './bytes.mjs';
import { isObject } from './json.mjs';
import { readPem, transcript, verify } from './keys.mjs';

const LONGEST_SIGNATURE = 104;

const readAnswer = (said) => {
  if (!isObject(said)) throw new Malformed('not an object');
  const { user_id: id, ecdsa_public_key: ecdsa, ecdh_public_key: ecdh, ecdh_signature: text } = said;
  if (typeof ecdsa !== 'string' || typeof ecdh !== 'string') throw new Malformed('a key is missing');
  const signature = base64(text);
  if (signature.length === 0 || signature.length > LONGEST_SIGNATURE) throw new Malformed('a signature of another length');
  return { id: uuid(String(id)), ecdsa, ecdh, signature };
};

/** Both keys, if the one signed the other under the name that the user was shown. */
export const openKeys = async (said, { id, username }) => {
  const found = reading('malformed', () => readAnswer(said));
  if (!same(found.id, id)) refuse('another_user', 'keys of another user');
  const [ecdsa, ecdh] = [readPem(found.ecdsa), readPem(found.ecdh)];
  if (same(ecdsa, ecdh)) refuse('invalid_key', 'one key for both purposes');
  await verify(ecdsa, found.signature, transcript('register', utf8(username), ecdsa, ecdh));
  return { ecdsa, ecdh };
};

export const checkPublicKeys = async (vector, file) => {
  await openKeys(vector.answer, { id: uuid(file.user_id), username: file.username });
};
