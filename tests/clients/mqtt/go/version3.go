package main

import (
	"net"
	"net/url"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

type client3 struct {
	queue
	client mqtt.Client
	conn   net.Conn
}

func connect3(one settings) (client, bool) {
	made := &client3{queue: make(queue, 100)}
	options := mqtt.NewClientOptions().AddBroker(address.String()).SetClientID(one.name)
	options.SetProtocolVersion(uint(version)).SetCleanSession(!one.stays)
	options.SetAutoReconnect(false).SetConnectTimeout(wait)
	options.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
		made.conn = dial()
		return made.conn, nil
	})
	options.SetDefaultPublishHandler(func(_ mqtt.Client, got mqtt.Message) {
		made.queue <- message{string(got.Payload()), got.Qos(), got.Retained()}
	})
	if one.will != "" {
		options.SetWill(one.will, "gone", 1, false)
	}
	made.client = mqtt.NewClient(options)
	token := made.client.Connect().(*mqtt.ConnectToken)
	made.wait(token)
	return made, token.SessionPresent()
}

func (c *client3) wait(token mqtt.Token) {
	check(token.WaitTimeout(wait), "no answer came")
	must(token.Error())
}

func (c *client3) subscribe(filter string, qos byte) {
	c.wait(c.client.Subscribe(filter, qos, nil))
}

func (c *client3) publish(topic, text string, qos byte, retain bool) {
	c.wait(c.client.Publish(topic, qos, retain, text))
}

func (c *client3) close() { c.client.Disconnect(250) }

func (c *client3) cut() { must(c.conn.Close()) }
