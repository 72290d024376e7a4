package main

import (
	"context"
	"net"

	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session"
	"github.com/eclipse/paho.golang/paho/session/state"
)

type client5 struct {
	queue
	client *paho.Client
	conn   net.Conn
}

// The client's side of each session, over its connections.
var sessions = map[string]session.SessionManager{}

func soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), wait)
}

func connect5(one settings) (client, bool) {
	if sessions[one.name] == nil {
		sessions[one.name] = state.NewInMemory()
	}
	made := &client5{queue: make(queue, 100), conn: dial()}
	made.client = paho.NewClient(paho.ClientConfig{
		Conn:    made.conn,
		Session: sessions[one.name],
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(got paho.PublishReceived) (bool, error) {
				p := got.Packet
				made.queue <- message{string(p.Payload), p.QoS, p.Retain}
				return true, nil
			},
		},
	})
	expiry := uint32(0)
	if one.stays {
		expiry = 60
	}
	packet := &paho.Connect{
		ClientID:   one.name,
		KeepAlive:  30,
		CleanStart: !one.stays,
		Properties: &paho.ConnectProperties{SessionExpiryInterval: &expiry},
	}
	if one.will != "" {
		packet.WillMessage = &paho.WillMessage{Topic: one.will, Payload: []byte("gone"), QoS: 1}
	}
	ctx, done := soon()
	defer done()
	answer, err := made.client.Connect(ctx, packet)
	must(err)
	return made, answer.SessionPresent
}

func (c *client5) subscribe(filter string, qos byte) {
	ctx, done := soon()
	defer done()
	_, err := c.client.Subscribe(ctx, &paho.Subscribe{
		Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: qos}},
	})
	must(err)
}

func (c *client5) publish(topic, text string, qos byte, retain bool) {
	ctx, done := soon()
	defer done()
	_, err := c.client.Publish(ctx, &paho.Publish{
		Topic: topic, Payload: []byte(text), QoS: qos, Retain: retain,
	})
	must(err)
}

func (c *client5) close() { must(c.client.Disconnect(&paho.Disconnect{})) }

func (c *client5) cut() { must(c.conn.Close()) }
