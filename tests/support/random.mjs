// Random courses that can be run again: everything random in them comes from one seed.

/** mulberry32: numbers in [0, 1). */
export function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `SEED` of the environment, or a new one: a test prints it. */
export const SEED = Number(process.env.SEED ?? Date.now() % 1e9);

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
