// Produces (idempotently) and consumes in a group with franz-go; prints "ok".
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const count = 1000

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	producer, err := kgo.NewClient(
		kgo.SeedBrokers(os.Args[1]), kgo.AllowAutoTopicCreation(),
		kgo.ProducerBatchCompression(kgo.ZstdCompression()),
	)
	must(err)
	for number := 0; number < count; number++ {
		record := &kgo.Record{Topic: "light", Value: []byte(fmt.Sprint(number))}
		producer.Produce(ctx, record, func(_ *kgo.Record, err error) { must(err) })
	}
	must(producer.Flush(ctx))
	producer.Close()
	consumer, err := kgo.NewClient(
		kgo.SeedBrokers(os.Args[1]), kgo.ConsumerGroup("group"), kgo.ConsumeTopics("light"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(),
	)
	must(err)
	seen := map[string]bool{}
	for len(seen) < count {
		fetches := consumer.PollFetches(ctx)
		must(fetches.Err())
		fetches.EachRecord(func(record *kgo.Record) {
			if seen[string(record.Value)] {
				panic("twice: " + string(record.Value))
			}
			seen[string(record.Value)] = true
		})
	}
	must(consumer.CommitUncommittedOffsets(ctx))
	consumer.Close()
	fmt.Println("ok")
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
