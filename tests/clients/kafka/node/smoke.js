// The job of the matrix (tests/clients/test_kafka_matrix.py) with the clients of Node:
// smoke.js <kafkajs|platformatic> <address>. A library is an adapter with the few calls that the job
// asks of it.
import assert from 'node:assert/strict'
import { createInterface } from 'node:readline'
import { sleep, until } from './waiting.js'

const COUNT = 60
const PARTITIONS = 6
const PADDING = 'x'.repeat(200)

function rowsOf (name, codec) {
  return Array.from({ length: COUNT }, (_, number) => ({
    key: `key ${number}`,
    value: `${name} ${codec} ${number} ${PADDING}`,
    headers: { library: name, codec, empty: '' }
  }))
}

function same (what, rows, wanted) {
  assert.deepEqual(rows.map(row => JSON.stringify(row)).sort(), wanted.map(row => JSON.stringify(row)).sort(), what)
}

const sum = numbers => numbers.reduce((total, number) => total + Number(number), 0)

async function firstPart (name, library) {
  await library.createTopic(name, PARTITIONS, { 'retention.ms': '1000000' })
  const rows = []
  for (const codec of library.codecs) {
    await library.send(name, rowsOf(name, codec), codec)
    await library.send(`cross.${codec}`, rowsOf(name, codec), codec)
    rows.push(...rowsOf(name, codec))
    console.log('wrote', codec)
  }
  await sleep(50)
  const between = Date.now()
  await sleep(50)
  await library.send(`light.${name}`, rowsOf(name, 'none').slice(0, 1), 'none')
  const first = await library.join(name, name)
  await until('the first assignment', () => first.assigned() === PARTITIONS)
  await until('all at the first member', () => first.rows.length >= rows.length)
  same('the first member', first.rows, rows)
  await first.commit()
  const second = await library.join(name, name)
  await until('an even share', () => first.assigned() === 3 && second.assigned() === 3)
  await library.send(name, rowsOf(name, 'both'), library.codecs.at(-1))
  rows.push(...rowsOf(name, 'both'))
  await until('the records of both', () => first.rows.length + second.rows.length >= rows.length)
  assert(second.rows.length > 0, 'nothing at the second member')
  await first.commit()
  await second.commit()
  await second.close()
  await until('what the second member left', () => first.assigned() === PARTITIONS)
  first.rows.push(...second.rows)
  same('both members', first.rows, rows)
  return { first, rows, between }
}

async function secondPart (name, library, { first, rows, between }) {
  await library.send(name, rowsOf(name, 'restarted'), library.codecs.at(-1))
  rows.push(...rowsOf(name, 'restarted'))
  await until('the records after the restart', () => first.rows.length >= rows.length)
  same('after the restart', first.rows, rows)
  await first.commit()
  assert.equal(sum(await library.committed(name, name, PARTITIONS)), rows.length)
  assert.equal(sum(await library.offsetsAt(name, between)), library.codecs.length * COUNT)
  assert.equal(await library.membersOf(name), 1)
  await first.close()
}

async function administer (name, library) {
  assert.equal(await library.partitionsOf(name), PARTITIONS)
  assert.equal(await library.partitionsOf(`light.${name}`), 1)
  assert.equal(await library.setting(name, 'retention.ms'), '1000000')
  await library.changeSetting(name, 'retention.ms', '2000000')
  assert.equal(await library.setting(name, 'retention.ms'), '2000000')
  await library.addPartitions(name, PARTITIONS + 2)
  await until('two more partitions', async () => (await library.partitionsOf(name)) === PARTITIONS + 2)
  await library.deleteGroup(name)
  await library.deleteTopic(name)
  await until('the end of the topic', async () => !(await library.topics()).includes(name))
}

async function showCross (library, codec, count) {
  const found = {}
  for (const row of await library.readAll(`cross.${codec}`, count)) {
    const other = row.headers.library
    if (row.value === `${other} ${codec} ${row.key.slice(4)} ${PADDING}`) {
      found[other] = (found[other] ?? 0) + 1
    }
  }
  for (const other of Object.keys(found).sort()) console.log('read', other, codec, found[other])
}

const [name, address] = process.argv.slice(2)
const { open } = await import(`./with_${name}.js`)
const library = await open(address)
const state = await firstPart(name, library)
console.log('first')
const line = await new Promise(resolve => createInterface({ input: process.stdin }).once('line', resolve))
const counts = Object.fromEntries(line.trim().split(' ').map(word => word.split('=')))
await secondPart(name, library, state)
await administer(name, library)
for (const codec of library.codecs) await showCross(library, codec, Number(counts[codec]))
console.log('ok')
process.exit(0)
