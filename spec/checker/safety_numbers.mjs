// Safety numbers (section 6.1).

import { concat, refuse, uuid } from './bytes.mjs';
import { hash, number, readPem, transcript } from './keys.mjs';

const half = async ({ user_id: id, ecdsa }) => {
  const key = readPem(ecdsa);
  let digest = await hash('SHA-512', transcript('safety-number', uuid(id), key));
  for (let i = 2; i <= 5200; i += 1) digest = await hash('SHA-512', concat(digest, key));
  const group = (at) => String(number(digest.slice(at, at + 5)) % 100000n).padStart(5, '0');
  return [0, 5, 10, 15, 20, 25].map(group).join('');
};

export const checkSafetyNumber = async (vector) => {
  const halves = await Promise.all([half(vector.mine), half(vector.theirs)]);
  const shown = halves.sort().join('');
  if (shown !== vector.number) refuse('another_number', `it is ${shown}`);
};
