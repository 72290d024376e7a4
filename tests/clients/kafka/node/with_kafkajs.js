import kafkajs from 'kafkajs'
import snappy from 'kafkajs-snappy'
import zlib from 'node:zlib'
import { until } from './waiting.js'

const { CompressionCodecs, CompressionTypes, ConfigResourceTypes, Kafka, logLevel } = kafkajs
const TYPES = { none: 'None', gzip: 'GZIP', snappy: 'Snappy', zstd: 'ZSTD' }

function codec (compress, decompress) {
  return () => ({ compress: async encoder => compress(encoder.buffer), decompress: async buffer => decompress(buffer) })
}

// kafkajs itself has gzip alone; there is no LZ4 for it that needs no compiler.
CompressionCodecs[CompressionTypes.Snappy] = snappy
if (zlib.zstdCompressSync) {
  CompressionCodecs[CompressionTypes.ZSTD] = codec(zlib.zstdCompressSync, zlib.zstdDecompressSync)
}

const rowOf = ({ key, value, headers }) => ({
  key: key.toString(),
  value: value.toString(),
  headers: Object.fromEntries(Object.entries(headers).map(([name, text]) => [name, text.toString()]))
})

export async function open (address) {
  const kafka = new Kafka({
    brokers: [address],
    logLevel: logLevel.NOTHING,
    retry: { initialRetryTime: 100, retries: 20, maxRetryTime: 1000 }
  })
  const admin = kafka.admin()
  await admin.connect()
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1, allowAutoTopicCreation: true })
  await producer.connect()

  async function consumer (group, topic, onRow, offsets) {
    const made = kafka.consumer({ groupId: group, heartbeatInterval: 300, sessionTimeout: 10_000, maxWaitTimeInMs: 200 })
    let assigned = 0
    made.on(made.events.GROUP_JOIN, ({ payload }) => { assigned = (payload.memberAssignment[topic] ?? []).length })
    made.on(made.events.REBALANCING, () => { assigned = 0 })
    await made.connect()
    await made.subscribe({ topics: [topic], fromBeginning: true })
    await made.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => {
        offsets[partition] = (BigInt(message.offset) + 1n).toString()
        onRow(rowOf(message))
      }
    })
    return { made, assigned: () => assigned }
  }

  return {
    codecs: zlib.zstdCompressSync ? Object.keys(TYPES) : Object.keys(TYPES).slice(0, 3),
    createTopic: (topic, numPartitions, settings) => admin.createTopics({
      topics: [{
        topic, numPartitions, configEntries: Object.entries(settings).map(([name, value]) => ({ name, value }))
      }]
    }),
    send: (topic, messages, type) => producer.send({
      topic, messages, acks: -1, compression: CompressionTypes[TYPES[type]]
    }),
    async join (group, topic) {
      const rows = []
      const offsets = {}
      const { made, assigned } = await consumer(group, topic, row => rows.push(row), offsets)
      return {
        rows,
        assigned,
        commit: () => made.commitOffsets(
          Object.entries(offsets).map(([partition, offset]) => ({ topic, partition: Number(partition), offset }))
        ),
        close: () => made.disconnect()
      }
    },
    async readAll (topic, count) {
      const rows = []
      const { made } = await consumer(`kafkajs of ${topic}`, topic, row => rows.push(row), {})
      await until(`${count} records of ${topic}`, () => rows.length >= count)
      await made.disconnect()
      return rows
    },
    async committed (group, topic) {
      const [found] = await admin.fetchOffsets({ groupId: group, topics: [topic] })
      return found.partitions.map(({ offset }) => offset)
    },
    offsetsAt: async (topic, timestamp) =>
      (await admin.fetchTopicOffsetsByTimestamp(topic, timestamp)).map(({ offset }) => offset),
    topics: () => admin.listTopics(),
    async partitionsOf (topic) {
      const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
      return topics[0].partitions.length
    },
    async setting (topic, configName) {
      const { resources } = await admin.describeConfigs({
        resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configNames: [configName] }]
      })
      return resources[0].configEntries[0].configValue
    },
    changeSetting: (topic, name, value) => admin.alterConfigs({
      resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries: [{ name, value }] }]
    }),
    addPartitions: (topic, count) => admin.createPartitions({ topicPartitions: [{ topic, count }] }),
    async membersOf (group) {
      const { groups } = await admin.describeGroups([group])
      return groups[0].members.length
    },
    deleteGroup: group => admin.deleteGroups([group]),
    deleteTopic: topic => admin.deleteTopics({ topics: [topic] })
  }
}
