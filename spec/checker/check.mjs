// Checks every vector of every file: node check.mjs [--why] [folder of the vectors]

import { readdir, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { base64, Refusal, same, textOf } from './bytes.mjs';
import { checkIdentityFile } from './identity.mjs';
import { isObject, parse } from './json.mjs';
import { readPem, verify } from './keys.mjs';
import { checkChallenge, checkLogin, checkProof } from './login.mjs';
import { checkContent, checkPadding } from './padding.mjs';
import { checkPrekeys } from './prekeys.mjs';
import { checkPublicKeys } from './public_keys.mjs';
import { checkRatchet } from './ratchet.mjs';
import { checkSafetyNumber } from './safety_numbers.mjs';
import { checkHandshake, checkSession } from './sessions.mjs';
import { checkTranscript } from './transcripts.mjs';

const checkKey = (vector) => {
  const der = readPem(vector.pem);
  if (vector.result === 'ok' && !same(der, base64(vector.der))) throw new Error('other DER');
};

const checkSignature = (vector) => verify(readPem(vector.key), base64(vector.signature), base64(vector.data));

// What each file's vectors are checked with. A file that is not here fails: nothing passes unread.
const CHECKS = {
  challenges: checkChallenge,
  contents: checkContent,
  handshakes: checkHandshake,
  identity_files: checkIdentityFile,
  keys: checkKey,
  logins: checkLogin,
  padding: checkPadding,
  prekeys: checkPrekeys,
  proofs: checkProof,
  public_keys: checkPublicKeys,
  ratchets: checkRatchet,
  safety_numbers: checkSafetyNumber,
  sessions: checkSession,
  signatures: checkSignature,
  transcripts: checkTranscript,
};

const SAY_WHY = process.argv.includes('--why');

/** Why one vector does not hold, or nothing. A file whose vectors have no `result` has only good ones. */
const faultOf = async (check, vector, file) => {
  const expected = vector.result ?? 'ok';
  try {
    await check(vector, file);
  } catch (error) {
    if (error instanceof Refusal && error.code === expected) {
      if (SAY_WHY) console.log(`    ${vector.name}: ${error.message}`);
      return undefined;
    }
    return error instanceof Refusal && expected !== 'ok'
      ? `refused as ${error.message}, not as ${expected}`
      : error.message;
  }
  return expected === 'ok' ? undefined : `taken, but ${expected}`;
};

const checkFile = async (path, name) => {
  const check = CHECKS[name];
  if (!check) return { faults: ['no check is known for it'], good: 0, bad: 0 };
  const file = parse(textOf(await readFile(path)));
  const vectors = Array.isArray(file) ? file : file.vectors;
  if (!Array.isArray(vectors) || vectors.length === 0) return { faults: ['no vectors'], good: 0, bad: 0 };
  const faults = [];
  let good = 0;
  for (const [index, vector] of vectors.entries()) {
    const known = isObject(vector) && typeof vector.name === 'string';
    const fault = known ? await faultOf(check, vector, file) : 'it has no name';
    if (fault !== undefined) faults.push(`${index + 1} (${vector?.name}): ${fault}`);
    if ((vector?.result ?? 'ok') === 'ok') good += 1;
  }
  return { faults, good, bad: vectors.length - good };
};

const main = async () => {
  const given = process.argv.slice(2).find((each) => each !== '--why');
  const folder = given ?? fileURLToPath(new URL('../vectors', import.meta.url));
  const files = (await readdir(folder)).filter((name) => name !== 'README.md').sort();
  let total = 0;
  let failed = files.length === 0 ? 1 : 0;
  for (const name of files) {
    let outcome;
    try {
      if (!name.endsWith('.json')) throw new Error('not a .json file');
      outcome = await checkFile(`${folder}/${name}`, name.slice(0, -'.json'.length));
    } catch (error) {
      outcome = { faults: [error.message], good: 0, bad: 0 };
    }
    const { faults, good, bad } = outcome;
    total += good + bad;
    failed += faults.length;
    const notice = faults.length ? `, ${faults.length} FAILED` : '';
    console.log(`${name}: ${good + bad} vectors, ${good} good, ${bad} bad${notice}`);
    for (const fault of faults) console.error(`${name}: ${fault}`);
  }
  console.log(`total: ${total} vectors in ${files.length} files, ${failed} failed`);
  process.exitCode = failed ? 1 : 0;
};

await main();
