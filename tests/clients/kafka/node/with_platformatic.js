import { Admin, Consumer, Producer, stringDeserializers, stringSerializers } from '@platformatic/kafka'
import zlib from 'node:zlib'
import { until } from './waiting.js'

const TOPIC = 2

const rowOf = ({ key, value, headers }) => ({ key, value, headers: Object.fromEntries(headers) })

export async function open (address) {
  const options = {
    clientId: 'platformatic', bootstrapBrokers: [address], retries: 40, retryDelay: 100, autocreateTopics: true
  }
  const admin = new Admin(options)
  // What the members have read, by partition.
  const next = new Map()
  const producer = new Producer({ ...options, serializers: stringSerializers, idempotent: true })

  async function consume (groupId, topic, take, mode, next = new Map()) {
    const made = new Consumer({
      ...options, groupId, deserializers: stringDeserializers, heartbeatInterval: 300, sessionTimeout: 10_000
    })
    const stream = await made.consume({
      topics: [topic], mode, fallbackMode: 'earliest', autocommit: false, maxWaitTime: 200
    })
    stream.on('data', message => {
      // After a rebalance partitions are read from their start again, of Apache Kafka too.
      if (message.offset < (next.get(message.partition) ?? 0n)) return
      next.set(message.partition, message.offset + 1n)
      take(rowOf(message))
    })
    return made
  }

  return {
    // Its Snappy does not read the framing that Java's and other clients write.
    codecs: ['none', 'gzip', 'lz4', ...(zlib.zstdCompressSync ? ['zstd'] : [])],
    createTopic: (topic, partitions, settings) => admin.createTopics({
      topics: [topic],
      partitions,
      replicas: 1,
      configs: Object.entries(settings).map(([name, value]) => ({ name, value }))
    }),
    send: (topic, rows, compression) => producer.send({
      messages: rows.map(row => ({ topic, ...row })), compression, acks: -1
    }),
    async join (group, topic) {
      const rows = []
      const made = await consume(group, topic, row => rows.push(row), 'committed', next)
      return {
        rows,
        assigned: () => (made.assignments ?? []).reduce((total, { partitions }) => total + partitions.length, 0),
        commit: () => made.commit({
          offsets: [...next].map(([partition, offset]) => ({ topic, partition, offset, leaderEpoch: -1 }))
        }),
        close: () => made.close(true)
      }
    },
    async readAll (topic, count) {
      const rows = []
      const made = await consume(`platformatic.of.${topic}`, topic, row => rows.push(row), 'earliest')
      await until(`${count} records of ${topic}`, () => rows.length >= count)
      await made.close(true)
      return rows
    },
    async committed (group, topic) {
      const [found] = await admin.listConsumerGroupOffsets({ groups: [group] })
      return found.topics[0].partitions.map(({ committedOffset }) => committedOffset)
    },
    async offsetsAt (topic, timestamp) {
      const found = await admin.listOffsets({
        topics: [{
          name: topic,
          partitions: Array.from({ length: 6 }, (_, index) => ({ partitionIndex: index, timestamp: BigInt(timestamp) }))
        }]
      })
      return found[0].partitions.map(({ offset }) => offset)
    },
    topics: () => admin.listTopics(),
    async partitionsOf (topic) {
      const found = await admin.metadata({ topics: [topic], forceUpdate: true })
      return found.topics.get(topic).partitions.length
    },
    async setting (topic, name) {
      const [found] = await admin.describeConfigs({
        resources: [{ resourceType: TOPIC, resourceName: topic, configurationKeys: [name] }]
      })
      return found.configs[0].value
    },
    changeSetting: (topic, name, value) => admin.incrementalAlterConfigs({
      resources: [{ resourceType: TOPIC, resourceName: topic, configs: [{ name, configOperation: 0, value }] }]
    }),
    addPartitions: (topic, count) => admin.createPartitions({ topics: [{ name: topic, count, assignments: null }] }),
    async membersOf (group) {
      const found = await admin.describeGroups({ groups: [group] })
      return found.get(group).members.size
    },
    deleteGroup: group => admin.deleteGroups({ groups: [group] }),
    deleteTopic: topic => admin.deleteTopics({ topics: [topic] })
  }
}
