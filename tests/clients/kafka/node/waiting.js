// Waits for conditions.
import assert from 'node:assert/strict'

const WAIT_MS = 40_000

export const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

export async function until (what, condition) {
  const deadline = Date.now() + WAIT_MS
  while (!(await condition())) {
    assert(Date.now() < deadline, `${what} did not come`)
    await sleep(20)
  }
}
