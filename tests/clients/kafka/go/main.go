// The job of the matrix (tests/clients/test_kafka_matrix.py) with the clients of the Go world:
// smoke <franz-go|sarama> <address>. A library is an adapter with the few calls that the job asks of it.
package main

import (
	"bufio"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	count      = 60
	partitions = 6
	wait       = 40 * time.Second
)

var (
	codecs  = []string{"none", "gzip", "snappy", "lz4", "zstd"}
	padding = strings.Repeat("x", 200)
)

// row is a record as a client sees it; headers are "key=value", in order.
type row struct {
	key, value string
	headers    [3][2]string
}

// member is a consumer of a group, which polls by itself until it is closed.
type member struct {
	sync.Mutex
	assigned int
	rows     []row
	commit   func()
	close    func()
}

func (m *member) seen() int {
	m.Lock()
	defer m.Unlock()
	return len(m.rows)
}

func (m *member) has() int {
	m.Lock()
	defer m.Unlock()
	return m.assigned
}

type library interface {
	createTopic(topic string, partitions int, setting, value string)
	send(topic, codec string, rows []row)
	join(group, topic string) *member
	readAll(topic string, count int) []row
	committed(group, topic string) int
	// The sum of the offsets, -1 for each partition without one.
	offsetsAt(topic string, at time.Time) int
	partitionsOf(topic string) int
	setting(topic, name string) string
	changeSetting(topic, name, value string)
	addPartitions(topic string, partitions int)
	membersOf(group string) int
	deleteGroup(group string)
	deleteTopic(topic string)
}

func main() {
	name := os.Args[1]
	var lib library
	if name == "sarama" {
		lib = newSarama(os.Args[2])
	} else {
		lib = newFranz(os.Args[2])
	}
	first, rows, between := produceAndShare(name, lib)
	fmt.Println("first")
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	must(err)
	resume(name, lib, first, rows, between)
	administer(name, lib)
	for _, word := range strings.Fields(line) {
		codec, number, _ := strings.Cut(word, "=")
		total, err := strconv.Atoi(number)
		must(err)
		showCross(lib, codec, total)
	}
	fmt.Println("ok")
}

func produceAndShare(name string, lib library) (*member, []row, time.Time) {
	lib.createTopic(name, partitions, "retention.ms", "1000000")
	var rows []row
	for _, codec := range codecs {
		lib.send(name, codec, rowsOf(name, codec))
		lib.send("cross."+codec, codec, rowsOf(name, codec))
		rows = append(rows, rowsOf(name, codec)...)
		fmt.Println("wrote", codec)
	}
	time.Sleep(50 * time.Millisecond)
	between := time.Now()
	time.Sleep(50 * time.Millisecond)
	lib.send("light."+name, "none", rowsOf(name, "none")[:1])
	first := lib.join(name, name)
	await("the first member's assignment", func() bool { return first.has() == partitions })
	await("all records at the first member", func() bool { return first.seen() >= len(rows) })
	same("the first member", first.rows, rows)
	first.commit()
	second := lib.join(name, name)
	await("an even share", func() bool { return first.has() == 3 && second.has() == 3 })
	lib.send(name, "zstd", rowsOf(name, "both"))
	rows = append(rows, rowsOf(name, "both")...)
	await("the records of both", func() bool { return first.seen()+second.seen() >= len(rows) })
	check(second.seen() > 0, "something at the second member")
	first.commit()
	second.commit()
	second.close()
	await("what the second member left", func() bool { return first.has() == partitions })
	first.rows = append(first.rows, second.rows...)
	same("both members", first.rows, rows)
	return first, rows, between
}

func resume(name string, lib library, stays *member, rows []row, between time.Time) {
	lib.send(name, "zstd", rowsOf(name, "restarted"))
	rows = append(rows, rowsOf(name, "restarted")...)
	await("the records after the restart", func() bool { return stays.seen() >= len(rows) })
	same("after the restart", stays.rows, rows)
	stays.commit()
	committed := lib.committed(name, name)
	check(committed == len(rows), fmt.Sprint(committed, " are committed"))
	offsets := lib.offsetsAt(name, between)
	check(offsets == len(codecs)*count, fmt.Sprint("the offsets of a time: ", offsets))
	beyond := lib.offsetsAt(name, time.Now().Add(3*time.Hour))
	check(beyond == -partitions, fmt.Sprint("offsets of the future: ", beyond))
	check(lib.membersOf(name) == 1, "one member")
	stays.close()
}

func administer(name string, lib library) {
	check(lib.partitionsOf(name) == partitions, "six partitions")
	check(lib.partitionsOf("light."+name) == 1, "one partition of a topic that was not created")
	check(lib.setting(name, "retention.ms") == "1000000", "the setting")
	lib.changeSetting(name, "retention.ms", "2000000")
	check(lib.setting(name, "retention.ms") == "2000000", "the changed setting")
	lib.addPartitions(name, partitions+2)
	await("two more partitions", func() bool { return lib.partitionsOf(name) == partitions+2 })
	lib.deleteGroup(name)
	lib.deleteTopic(name)
	await("the end of the topic", func() bool { return lib.partitionsOf(name) == 0 })
}

func showCross(lib library, codec string, total int) {
	found := map[string]int{}
	for _, one := range lib.readAll("cross."+codec, total) {
		other := one.headers[0][1]
		number := strings.TrimPrefix(one.key, "key ")
		if one.value == fmt.Sprintf("%s %s %s %s", other, codec, number, padding) {
			found[other]++
		}
	}
	var names []string
	for other := range found {
		names = append(names, other)
	}
	sort.Strings(names)
	for _, other := range names {
		fmt.Println("read", other, codec, found[other])
	}
}

func rowsOf(name, codec string) []row {
	var rows []row
	for number := 0; number < count; number++ {
		rows = append(rows, row{
			fmt.Sprint("key ", number),
			fmt.Sprintf("%s %s %d %s", name, codec, number, padding),
			[3][2]string{{"library", name}, {"codec", codec}, {"empty", ""}},
		})
	}
	return rows
}

func same(what string, found, wanted []row) {
	counts := map[row]int{}
	for _, one := range found {
		counts[one]++
	}
	for _, one := range wanted {
		counts[one]--
	}
	for one, number := range counts {
		check(number == 0, fmt.Sprintf("%s: %d too many of %v", what, number, one))
	}
}

func await(what string, condition func() bool) {
	deadline := time.Now().Add(wait)
	for !condition() {
		check(time.Now().Before(deadline), what+" did not come")
		time.Sleep(20 * time.Millisecond)
	}
}

func check(holds bool, what string) {
	if !holds {
		panic(what)
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
