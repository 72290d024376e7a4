package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// franz is franz-go.
type franz struct {
	address   string
	admin     *kadm.Client
	created   map[string]bool
	producers map[string]*kgo.Client
}

func newFranz(address string) *franz {
	// What was read of a topic counts for so long.
	client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.MetadataMinAge(100*time.Millisecond))
	must(err)
	return &franz{address, kadm.NewClient(client), map[string]bool{}, map[string]*kgo.Client{}}
}

func soon() context.Context {
	ctx, stop := context.WithTimeout(context.Background(), wait)
	time.AfterFunc(wait, stop)
	return ctx
}

func franzRow(record *kgo.Record) row {
	found := row{key: string(record.Key), value: string(record.Value)}
	for index, header := range record.Headers {
		found.headers[index] = [2]string{header.Key, string(header.Value)}
	}
	return found
}

func (f *franz) createTopic(topic string, partitions int, setting, value string) {
	settings := map[string]*string{setting: &value}
	made, err := f.admin.CreateTopic(soon(), int32(partitions), 1, settings, topic)
	must(err)
	must(made.Err)
	f.created[topic] = true
}

func (f *franz) send(topic, codec string, rows []row) {
	// A producer that may create topics would create a deleted one again with
	// its next look at the metadata.
	purpose := fmt.Sprint(codec, f.created[topic])
	producer, there := f.producers[purpose]
	if !there {
		known := map[string]kgo.CompressionCodec{
			"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
			"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
		}
		options := []kgo.Opt{
			kgo.SeedBrokers(f.address), kgo.ProducerBatchCompression(known[codec]),
			kgo.ProducerLinger(20 * time.Millisecond),
		}
		if !f.created[topic] {
			options = append(options, kgo.AllowAutoTopicCreation())
		}
		made, err := kgo.NewClient(options...)
		must(err)
		producer, f.producers[purpose] = made, made
	}
	var records []*kgo.Record
	for _, one := range rows {
		record := &kgo.Record{Topic: topic, Key: []byte(one.key), Value: []byte(one.value)}
		for _, header := range one.headers {
			record.Headers = append(record.Headers, kgo.RecordHeader{Key: header[0], Value: []byte(header[1])})
		}
		records = append(records, record)
	}
	must(producer.ProduceSync(soon(), records...).FirstErr())
}

func (f *franz) join(group, topic string) *member {
	m := &member{}
	change := func(sign int) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, places map[string][]int32) {
			m.Lock()
			defer m.Unlock()
			m.assigned += sign * len(places[topic])
		}
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(f.address), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(),
		kgo.HeartbeatInterval(300*time.Millisecond), kgo.OnPartitionsAssigned(change(1)),
		kgo.OnPartitionsRevoked(change(-1)), kgo.OnPartitionsLost(change(-1)),
	)
	must(err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			fetches := client.PollFetches(ctx)
			m.Lock()
			fetches.EachRecord(func(record *kgo.Record) { m.rows = append(m.rows, franzRow(record)) })
			m.Unlock()
		}
	}()
	m.commit = func() { must(client.CommitUncommittedOffsets(soon())) }
	m.close = func() {
		stop()
		<-done
		client.Close()
	}
	return m
}

func (f *franz) readAll(topic string, count int) []row {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(f.address), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	must(err)
	defer client.Close()
	var rows []row
	ctx := soon()
	for len(rows) < count {
		fetches := client.PollFetches(ctx)
		must(fetches.Err0())
		fetches.EachRecord(func(record *kgo.Record) { rows = append(rows, franzRow(record)) })
	}
	return rows
}

func (f *franz) committed(group, topic string) int {
	found, err := f.admin.FetchOffsets(soon(), group)
	must(err)
	sum := 0
	for _, offset := range found[topic] {
		sum += int(offset.At)
	}
	return sum
}

func (f *franz) offsetsAt(topic string, at time.Time) int {
	// Beyond the end kadm asks again and tells the end; -1 is what the broker says.
	found, err := f.admin.ListOffsetsAfterMilli(soon(), at.UnixMilli(), topic)
	must(err)
	must(found.Error())
	sum := 0
	for _, offset := range found[topic] {
		if offset.Timestamp < 0 {
			sum--
		} else {
			sum += int(offset.Offset)
		}
	}
	return sum
}

func (f *franz) partitionsOf(topic string) int {
	found, err := f.admin.ListTopics(soon(), topic)
	must(err)
	if errors.Is(found[topic].Err, kerr.UnknownTopicOrPartition) {
		return 0
	}
	must(found[topic].Err)
	return len(found[topic].Partitions)
}

func (f *franz) setting(topic, name string) string {
	found, err := f.admin.DescribeTopicConfigs(soon(), topic)
	must(err)
	resource, err := found.On(topic, nil)
	must(err)
	for _, entry := range resource.Configs {
		if entry.Key == name {
			return entry.MaybeValue()
		}
	}
	return ""
}

func (f *franz) changeSetting(topic, name, value string) {
	change := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: name, Value: &value}}
	answers, err := f.admin.AlterTopicConfigs(soon(), change, topic)
	must(err)
	answer, err := answers.On(topic, nil)
	must(err)
	must(answer.Err)
}

func (f *franz) addPartitions(topic string, partitions int) {
	answers, err := f.admin.UpdatePartitions(soon(), partitions, topic)
	must(err)
	must(answers.Error())
}

func (f *franz) membersOf(group string) int {
	found, err := f.admin.DescribeGroups(soon(), group)
	must(err)
	must(found.Error())
	return len(found[group].Members)
}

func (f *franz) deleteGroup(group string) {
	answer, err := f.admin.DeleteGroup(soon(), group)
	must(err)
	must(answer.Err)
}

func (f *franz) deleteTopic(topic string) {
	answer, err := f.admin.DeleteTopic(soon(), topic)
	must(err)
	must(answer.Err)
}
