// JSON in which no name comes twice (section 3.1). JSON.parse keeps the last of two, so names are counted here.

import { Malformed } from './bytes.mjs';

const TOKEN = /\s*(?:([{}[\],:])|("(?:[^"\\]|\\.)*")|([^\s{}[\],:"]+))/gy;

const refuseDoubles = (text) => {
  const open = [];
  let expectName = false;
  for (const [, mark, string] of text.matchAll(TOKEN)) {
    const names = open.at(-1);
    if (mark === '{') open.push(new Set());
    else if (mark === '[') open.push(null);
    else if (mark === '}' || mark === ']') open.pop();
    else if (string !== undefined && expectName && names) {
      const name = JSON.parse(string);
      if (names.has(name)) throw new Malformed(`the name ${name} comes twice`);
      names.add(name);
    }
    expectName = mark === '{' || (mark === ',' && Boolean(open.at(-1)));
  }
};

export const parse = (text) => {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Malformed('not JSON');
  }
  refuseDoubles(text);
  return value;
};

export const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
