/** The tasks: "write this word backwards". A task is a pure function of (split, index, seed). */

import { createHash } from "node:crypto";

export const NAME = "reverse";
export const VERSION = "1.0.0";
export const SPLITS = ["train", "validation", "test"] as const;
export type Split = (typeof SPLITS)[number];

const LETTERS = "abcdefghijklmnopqrstuvwxyz";
const WORD_LENGTH = 6;

/** What the proto calls Task, as far as this environment fills it in. */
export interface Task {
  environment: string;
  environmentVersion: string;
  split: string;
  index: string;
  taskId: string;
  text: string;
  verifier: string;
  payload: Buffer;
  seed: string;
}

export function isSplit(name: string): name is Split {
  return (SPLITS as readonly string[]).includes(name);
}

/** The task at `index`; the same arguments always give the same one. Integers are texts: they have 64 bits. */
export function task(split: Split, index: bigint, seed: bigint): Task {
  const word = wordOf(split, index, seed);
  const answer = [...word].reverse().join("");
  return {
    environment: NAME,
    environmentVersion: VERSION,
    split,
    index: index.toString(),
    taskId: `${split}/${seed}/${index}`,
    text: `${word}>`,
    verifier: "exact",
    payload: Buffer.from(JSON.stringify({ answer })),
    seed: seed.toString(),
  };
}

/** A word that belongs to the split, whatever the seed: so no word is in two splits. */
function wordOf(split: Split, index: bigint, seed: bigint): string {
  for (let attempt = 0; ; attempt++) {
    const digest = createHash("sha256").update(`${seed}/${split}/${index}/${attempt}`).digest();
    const word = [...digest.subarray(0, WORD_LENGTH)].map((byte) => LETTERS[byte % 26]).join("");
    if (splitOf(word) === split) return word;
  }
}

function splitOf(word: string): Split {
  const place = createHash("sha256").update(`split/${word}`).digest().readUInt32BE(0) % 20;
  return place === 0 ? "validation" : place === 1 ? "test" : "train";
}
