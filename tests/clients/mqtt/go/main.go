// The Go clients of Eclipse Paho against a broker: smoke <url> <3|4|5> <topic prefix> [CA file].
// paho.mqtt.golang speaks MQTT 3, paho.golang 5.0. Says "ok".
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

const wait = 10 * time.Second

type message struct {
	text   string
	qos    byte
	retain bool
}

// What both libraries are asked for.
type client interface {
	subscribe(filter string, qos byte)
	publish(topic, text string, qos byte, retain bool)
	next() message
	tryNext(timeout time.Duration) (message, bool)
	close()
	cut()
}

type settings struct {
	name  string
	stays bool
	will  string
}

var (
	address *url.URL
	version int
	prefix  string
	trust   *tls.Config
)

func check(condition bool, what string) {
	if !condition {
		panic(what)
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func dial() net.Conn {
	var conn net.Conn
	var err error
	switch address.Scheme {
	case "mqtt":
		conn, err = net.DialTimeout("tcp", address.Host, wait)
	case "mqtts":
		conn, err = tls.Dial("tcp", address.Host, trust)
	default:
		conn, err = mqtt.NewWebsocket(address.String(), trust, wait, nil, nil)
	}
	must(err)
	return conn
}

// The messages that came, oldest first.
type queue chan message

func (q queue) tryNext(timeout time.Duration) (message, bool) {
	select {
	case one := <-q:
		return one, true
	case <-time.After(timeout):
		return message{}, false
	}
}

func (q queue) next() message {
	one, came := q.tryNext(wait)
	check(came, "no message came")
	return one
}

func connect(one settings) (client, bool) {
	one.name = strings.ReplaceAll(prefix+"-"+one.name, "/", "-")
	if version == 5 {
		return connect5(one)
	}
	return connect3(one)
}

func job() {
	subscriber, present := connect(settings{name: "subscriber", stays: true})
	check(!present, "no session yet")
	publisher, _ := connect(settings{name: "publisher", will: prefix + "/will"})
	subscriber.subscribe(prefix+"/data", 2)
	subscriber.subscribe(prefix+"/will", 1)

	for qos := byte(0); qos < 3; qos++ {
		publisher.publish(prefix+"/data", strconv.Itoa(int(qos)), qos, false)
		check(subscriber.next() == message{strconv.Itoa(int(qos)), qos, false}, "QoS")
	}

	publisher.publish(prefix+"/kept", "kept", 1, true)
	late, _ := connect(settings{name: "late"})
	late.subscribe(prefix+"/kept", 1)
	check(late.next() == message{"kept", 1, true}, "a retained message")
	late.close()

	subscriber.close()
	publisher.publish(prefix+"/data", "while away", 2, false)
	subscriber, present = connect(settings{name: "subscriber", stays: true})
	check(version == 3 || present, "the session is there")
	check(subscriber.next().text == "while away", "what waited")

	if version == 5 {
		shareJobs(publisher)
	}

	publisher.cut()
	check(subscriber.next().text == "gone", "the will")
	subscriber.close()
}

func shareJobs(publisher client) {
	one, _ := connect(settings{name: "one"})
	two, _ := connect(settings{name: "two"})
	for _, member := range []client{one, two} {
		member.subscribe("$share/group/"+prefix+"/jobs", 1)
	}
	for number := 0; number < 20; number++ {
		publisher.publish(prefix+"/jobs", strconv.Itoa(number), 1, false)
	}
	done := map[string]bool{}
	for deadline := time.Now().Add(wait); len(done) < 20 && time.Now().Before(deadline); {
		for _, member := range []client{one, two} {
			if got, came := member.tryNext(20 * time.Millisecond); came {
				check(!done[got.text], "a job for one member")
				done[got.text] = true
			}
		}
	}
	check(len(done) == 20, "all jobs")
	one.close()
	two.close()
}

func main() {
	var err error
	address, err = url.Parse(os.Args[1])
	must(err)
	version, err = strconv.Atoi(os.Args[2])
	must(err)
	prefix = os.Args[3]
	if len(os.Args) > 4 {
		pem, err := os.ReadFile(os.Args[4])
		must(err)
		pool := x509.NewCertPool()
		check(pool.AppendCertsFromPEM(pem), "a certificate")
		trust = &tls.Config{RootCAs: pool}
	}
	job()
	fmt.Println("ok")
}
