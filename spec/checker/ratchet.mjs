// The double ratchet with header encryption (section 9.3). A state is never changed: each step gives a new one.

import { base64, concat, EMPTY, hex, readU32be, refuse, Refusal, same, u32be, u8 } from './bytes.mjs';
import { agree, decrypt, derive, encrypt, hmac, keyOfPoint, pointOf, publicOf, readPem, transcript } from './keys.mjs';

export const HEAD = 133;
const MOST_IN_A_STEP = 1000;
const MOST_KEPT = 2000;
const MOST_CHAINS = 32;

const kdfRoot = async (root, dh) => {
  const derived = await derive(root, dh, transcript('ratchet-turn'), 128);
  return { RK: derived.slice(0, 48), CK: derived.slice(48, 96), NHK: derived.slice(96) };
};

const kdfChain = async (ck) => ({ MK: await hmac(ck, u8(1)), CK: await hmac(ck, u8(2)) });

const BEGIN = { Ns: 0, Nr: 0, PN: 0, kept: [] };

/** The state of the beginner; `scalar` is that of the fresh DHs. */
export const stateOfA = async ({ root, hka, hkb }, signedPrekey, scalar) => {
  const { RK, CK, NHK } = await kdfRoot(root, await agree(scalar, signedPrekey));
  return { ...BEGIN, RK, DHs: scalar, DHr: signedPrekey, CKs: CK, HKs: hka, NHKs: NHK, NHKr: hkb };
};

/** The state of the other, who sends nothing before a message opened; `scalar` is that of the signed prekey. */
export const stateOfB = ({ root, hka, hkb }, scalar) => ({ ...BEGIN, RK: root, DHs: scalar, NHKs: hkb, NHKr: hka });

const bodyKey = async (MK, head) => {
  const derived = await derive(head, MK, transcript('ratchet-message'), 44);
  return [derived.slice(0, 32), derived.slice(32)];
};

/** head || body, and the state after it; `nonce` is the head's. */
export const seal = async (state, { nonce, associated, prefix, plaintext }) => {
  if (!state.CKs) throw new Error('nothing may be sent yet');
  const { MK, CK } = await kdfChain(state.CKs);
  const inside = concat(pointOf(await publicOf(state.DHs)), u32be(state.PN), u32be(state.Ns));
  const head = concat(nonce, await encrypt(state.HKs, nonce, inside, EMPTY));
  const [key, iv] = await bodyKey(MK, head);
  const body = await encrypt(key, iv, plaintext, concat(associated, prefix, head));
  return { sealed: concat(head, body), state: { ...state, CKs: CK, Ns: state.Ns + 1 } };
};

const readHead = async (headerKey, head) => {
  if (!headerKey) return undefined;
  const inside = await decrypt(headerKey, head.slice(0, 12), head.slice(12), EMPTY);
  if (!inside) return undefined;
  return { key: keyOfPoint(inside.slice(0, 97)), PN: readU32be(inside, 97), N: readU32be(inside, 101) };
};

/** Goes on in the receiving chain to `until`; the keys on the way are kept. */
const keepUpTo = async (state, until) => {
  if (!state.CKr || until <= state.Nr) return state;
  if (until - state.Nr > MOST_IN_A_STEP) refuse('cannot_decrypt', 'too many are missing');
  let { CKr } = state;
  const kept = [...state.kept];
  for (let n = state.Nr; n < until; n += 1) {
    const { MK, CK } = await kdfChain(CKr);
    kept.push({ headerKey: state.HKr, n, MK });
    CKr = CK;
  }
  return { ...state, CKr, Nr: until, kept };
};

/** The newest of the kept keys: at most so many, and of at most so many chains. */
const bounded = (kept) => {
  const chains = [];
  for (const { headerKey } of kept) if (!chains.some((each) => same(each, headerKey))) chains.push(headerKey);
  const live = chains.slice(-MOST_CHAINS);
  return kept.filter(({ headerKey }) => live.some((each) => same(each, headerKey))).slice(-MOST_KEPT);
};

export const turn = async (state, theirs, scalar) => {
  const first = await kdfRoot(state.RK, await agree(state.DHs, theirs));
  const second = await kdfRoot(first.RK, await agree(scalar, theirs));
  return {
    ...state,
    DHs: scalar, DHr: theirs,
    RK: second.RK, CKr: first.CK, CKs: second.CK,
    HKr: state.NHKr, NHKr: first.NHK, HKs: state.NHKs, NHKs: second.NHK,
    PN: state.Ns, Ns: 0, Nr: 0,
  };
};

const takeKept = async (state, head) => {
  const tried = [];
  for (const { headerKey } of state.kept) {
    if (tried.some((each) => same(each, headerKey))) continue;
    tried.push(headerKey);
    const inside = await readHead(headerKey, head);
    if (!inside) continue;
    const found = state.kept.findIndex((each) => same(each.headerKey, headerKey) && each.n === inside.N);
    if (found < 0) return undefined;
    const { MK } = state.kept[found];
    return { MK, late: true, missed: 0, state: { ...state, kept: state.kept.toSpliced(found, 1) } };
  }
  return undefined;
};

const takeNext = async (state, head, fresh) => {
  let after = state;
  let inside = await readHead(state.HKr, head);
  if (!inside) {
    inside = await readHead(state.NHKr, head);
    if (!inside) refuse('cannot_decrypt', 'no header key opens it');
    after = await turn(await keepUpTo(state, inside.PN), inside.key, await fresh());
  }
  if (inside.N < after.Nr) refuse('cannot_decrypt', 'a number that is gone');
  after = await keepUpTo(after, inside.N);
  const missed = after.kept.length - state.kept.length;
  const { MK, CK } = await kdfChain(after.CKr);
  return { MK, late: false, missed, state: { ...after, CKr: CK, Nr: inside.N + 1, kept: bounded(after.kept) } };
};

const openStrictly = async (state, { sealed, associated, prefix, fresh }) => {
  if (sealed.length < HEAD + 16) refuse('cannot_decrypt', 'too short');
  const head = sealed.slice(0, HEAD);
  const { MK, late, missed, state: after } = (await takeKept(state, head)) ?? (await takeNext(state, head, fresh));
  const [key, iv] = await bodyKey(MK, head);
  const plaintext = await decrypt(key, iv, sealed.slice(HEAD), concat(associated, prefix, head));
  if (!plaintext) refuse('cannot_decrypt', 'the body does not open');
  return { plaintext, late, missed, state: after };
};

/** The plaintext, if it came late, how many are missed with it, and the state after it, or one error;
 * `fresh` gives the scalar of a turn's new DHs. */
export const openSealed = async (state, message) => {
  try {
    return await openStrictly(state, message);
  } catch (error) {
    if (error instanceof Refusal) refuse('cannot_decrypt', error.message);
    throw error;
  }
};

const SOME_SCALAR = hex('01'.repeat(48));

const sealStep = async (state, step) => {
  const made = await seal(state, {
    nonce: hex(step.nonce), associated: base64(step.associated), prefix: EMPTY, plaintext: base64(step.plaintext),
  });
  if (!same(made.sealed, base64(step.message))) throw new Error('sealed otherwise');
  return made.state;
};

/** What sealing leaves behind; nobody sees what was sealed. */
const loseStep = async (state, { count }) => {
  let after = state;
  for (let i = 0; i < count; i += 1) {
    const { CK } = await kdfChain(after.CKs);
    after = { ...after, CKs: CK, Ns: after.Ns + 1 };
  }
  return after;
};

const openStep = async (state, step) => {
  let turned = false;
  const fresh = async () => {
    turned = true;
    return step.turn_scalar === undefined ? SOME_SCALAR : hex(step.turn_scalar);
  };
  const message = { sealed: base64(step.message), associated: base64(step.associated), prefix: EMPTY, fresh };
  const opened = await openSealed(state, message);
  if (step.result !== 'ok') return state;
  if (!same(opened.plaintext, base64(step.plaintext))) throw new Error('another plaintext');
  if (opened.missed !== step.missed || opened.late !== step.is_late) throw new Error('missed or late otherwise');
  if (turned !== (step.turn_scalar !== undefined)) throw new Error('a turn, or none, otherwise');
  return opened.state;
};

const STEPS = { seal: sealStep, seal_and_lose: loseStep, open: openStep };

const take = async (state, step) => {
  if (!Object.hasOwn(STEPS, step.action)) throw new Error(`an unknown action ${step.action}`);
  if (step.result === 'ok') return STEPS[step.action](state, step);
  try {
    await STEPS[step.action](state, step);
  } catch (error) {
    if (error instanceof Refusal && error.code === step.result) return state;
    throw error;
  }
  throw new Error(`taken, but ${step.result}`);
};

/** A course of two sides; a step that is refused leaves its side's state as it was. */
export const checkRatchet = async (vector, file) => {
  const root = hex(file.root);
  const keys = { root, hka: hex(file.initiator_header_key), hkb: hex(file.responder_header_key) };
  const signed = readPem(file.responder_signed_prekey);
  const scalar = hex(file.responder_signed_prekey_scalar);
  if (!same(await publicOf(scalar), signed)) throw new Error('the scalar is of another key');
  const sides = {
    initiator: await stateOfA(keys, signed, hex(file.initiator_ratchet_scalar)),
    responder: stateOfB(keys, scalar),
  };
  if (vector.steps.length === 0) throw new Error('no steps');
  for (const [index, step] of vector.steps.entries()) {
    try {
      sides[step.side] = await take(sides[step.side], step);
    } catch (error) {
      throw new Error(`step ${index + 1}: ${error.message}`, { cause: error });
    }
  }
};
