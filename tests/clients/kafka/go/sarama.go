package main

import (
	"context"
	"errors"
	"time"

	"github.com/IBM/sarama"
)

// shopify is sarama.
type shopify struct {
	address   string
	client    sarama.Client
	admin     sarama.ClusterAdmin
	producers map[string]sarama.SyncProducer
}

func saramaConfig() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Consumer.Group.Heartbeat.Interval = 300 * time.Millisecond
	return config
}

func newSarama(address string) *shopify {
	client, err := sarama.NewClient([]string{address}, saramaConfig())
	must(err)
	admin, err := sarama.NewClusterAdminFromClient(client)
	must(err)
	return &shopify{address, client, admin, map[string]sarama.SyncProducer{}}
}

func saramaRow(message *sarama.ConsumerMessage) row {
	found := row{key: string(message.Key), value: string(message.Value)}
	for index, header := range message.Headers {
		found.headers[index] = [2]string{string(header.Key), string(header.Value)}
	}
	return found
}

func (s *shopify) createTopic(topic string, partitions int, setting, value string) {
	must(s.admin.CreateTopic(topic, &sarama.TopicDetail{
		NumPartitions: int32(partitions), ReplicationFactor: 1,
		ConfigEntries: map[string]*string{setting: &value},
	}, false))
}

func (s *shopify) send(topic, codec string, rows []row) {
	producer, there := s.producers[codec]
	if !there {
		config := saramaConfig()
		config.Producer.Compression = map[string]sarama.CompressionCodec{
			"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy,
			"lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
		}[codec]
		config.Producer.Idempotent = true
		config.Producer.RequiredAcks = sarama.WaitForAll
		config.Producer.Return.Successes = true
		config.Producer.Flush.Frequency = 20 * time.Millisecond
		config.Net.MaxOpenRequests = 1
		made, err := sarama.NewSyncProducer([]string{s.address}, config)
		must(err)
		producer, s.producers[codec] = made, made
	}
	var messages []*sarama.ProducerMessage
	for _, one := range rows {
		message := &sarama.ProducerMessage{
			Topic: topic, Key: sarama.StringEncoder(one.key), Value: sarama.StringEncoder(one.value),
		}
		for _, header := range one.headers {
			message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(header[0]), Value: []byte(header[1])})
		}
		messages = append(messages, message)
	}
	must(producer.SendMessages(messages))
}

// handler is one member's; sarama makes a session for each generation.
type handler struct {
	m       *member
	topic   string
	session sarama.ConsumerGroupSession
}

func (h *handler) Setup(session sarama.ConsumerGroupSession) error {
	h.m.Lock()
	defer h.m.Unlock()
	h.session = session
	h.m.assigned = len(session.Claims()[h.topic])
	return nil
}

func (h *handler) Cleanup(sarama.ConsumerGroupSession) error {
	h.m.Lock()
	defer h.m.Unlock()
	h.m.assigned = 0
	return nil
}

func (h *handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		h.m.Lock()
		h.m.rows = append(h.m.rows, saramaRow(message))
		h.m.Unlock()
		session.MarkMessage(message, "")
	}
	return nil
}

func (s *shopify) join(group, topic string) *member {
	consumer, err := sarama.NewConsumerGroup([]string{s.address}, group, saramaConfig())
	must(err)
	m := &member{}
	h := &handler{m: m, topic: topic}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			// An error is a broker that is away: the next call joins again.
			if err := consumer.Consume(ctx, []string{topic}, h); err != nil {
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
	m.commit = func() {
		h.m.Lock()
		session := h.session
		h.m.Unlock()
		session.Commit()
	}
	m.close = func() {
		stop()
		<-done
		must(consumer.Close())
	}
	return m
}

func (s *shopify) readAll(topic string, count int) []row {
	consumer, err := sarama.NewConsumer([]string{s.address}, saramaConfig())
	must(err)
	messages := make(chan *sarama.ConsumerMessage)
	for index := 0; index < s.partitionsOf(topic); index++ {
		part, err := consumer.ConsumePartition(topic, int32(index), sarama.OffsetOldest)
		must(err)
		go func() {
			for message := range part.Messages() {
				messages <- message
			}
		}()
	}
	var rows []row
	for len(rows) < count {
		select {
		case message := <-messages:
			rows = append(rows, saramaRow(message))
		case <-time.After(wait):
			panic("records of " + topic + " did not come")
		}
	}
	return rows
}

func (s *shopify) committed(group, topic string) int {
	wanted := map[string][]int32{topic: {0, 1, 2, 3, 4, 5}}
	found, err := s.admin.ListConsumerGroupOffsets(group, wanted)
	must(err)
	sum := 0
	for _, block := range found.Blocks[topic] {
		sum += int(block.Offset)
	}
	return sum
}

func (s *shopify) offsetsAt(topic string, at time.Time) int {
	sum := 0
	for index := 0; index < partitions; index++ {
		offset, err := s.client.GetOffset(topic, int32(index), at.UnixMilli())
		must(err)
		sum += int(offset)
	}
	return sum
}

func (s *shopify) partitionsOf(topic string) int {
	found, err := s.admin.DescribeTopics([]string{topic})
	must(err)
	if errors.Is(found[0].Err, sarama.ErrUnknownTopicOrPartition) {
		return 0
	}
	check(found[0].Err == sarama.ErrNoError, found[0].Err.Error())
	return len(found[0].Partitions)
}

func (s *shopify) setting(topic, name string) string {
	found, err := s.admin.DescribeConfig(sarama.ConfigResource{
		Type: sarama.TopicResource, Name: topic, ConfigNames: []string{name},
	})
	must(err)
	check(len(found) == 1, "one setting")
	return found[0].Value
}

func (s *shopify) changeSetting(topic, name, value string) {
	change := map[string]sarama.IncrementalAlterConfigsEntry{
		name: {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value},
	}
	must(s.admin.IncrementalAlterConfig(sarama.TopicResource, topic, change, false))
}

func (s *shopify) addPartitions(topic string, partitions int) {
	must(s.admin.CreatePartitions(topic, int32(partitions), nil, false))
}

func (s *shopify) membersOf(group string) int {
	found, err := s.admin.DescribeConsumerGroups([]string{group})
	must(err)
	return len(found[0].Members)
}

func (s *shopify) deleteGroup(group string) { must(s.admin.DeleteConsumerGroup(group)) }

func (s *shopify) deleteTopic(topic string) { must(s.admin.DeleteTopic(topic)) }
