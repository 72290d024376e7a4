//! MQTT 5.0: the library's other API, with the same names; the job is that of version3 and more.

use std::collections::HashSet;

use rumqttc::v5::mqttbytes::v5::{LastWill, Packet};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rumqttc::Transport;
use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::{next, Inbox, Message, Place, WAIT};

struct Client {
    client: AsyncClient,
    inbox: Inbox,
    answers: UnboundedReceiver<Packet>,
    turning: JoinHandle<()>,
    session_present: bool,
}

fn quality(qos: u8) -> QoS {
    rumqttc::v5::mqttbytes::qos(qos).expect("a QoS")
}

impl Client {
    async fn connect(place: &Place, name: &str, stays: bool, will: Option<LastWill>) -> Client {
        let (host, port) = place.address();
        let mut options = if place.websocket() {
            MqttOptions::new(place.client_id(name), &place.url, port)
        } else {
            MqttOptions::new(place.client_id(name), host, port)
        };
        if place.websocket() {
            options.set_transport(Transport::Ws);
        }
        options.set_clean_start(!stays);
        options.set_session_expiry_interval(Some(if stays { 60 } else { 0 }));
        if let Some(will) = will {
            options.set_last_will(will);
        }
        let (client, mut events) = AsyncClient::new(options, 100);
        let (messages, inbox) = unbounded_channel();
        let (answered, mut answers) = unbounded_channel();
        let turning = tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                match event {
                    Event::Incoming(Packet::Publish(got)) => {
                        let text = String::from_utf8(got.payload.to_vec()).expect("text");
                        let one = Message { text, qos: got.qos as u8, retain: got.retain };
                        messages.send(one).ok();
                    }
                    Event::Incoming(other) => {
                        answered.send(other).ok();
                    }
                    Event::Outgoing(_) => {}
                }
            }
        });
        let answer = timeout(WAIT, answers.recv()).await.expect("no CONNACK came");
        let Some(Packet::ConnAck(connack)) = answer else { panic!("{answer:?} is no CONNACK") };
        let session_present = connack.session_present;
        Client { client, inbox, answers, turning, session_present }
    }

    async fn answer(&mut self, wanted: fn(&Packet) -> bool) {
        loop {
            let answer = timeout(WAIT, self.answers.recv()).await.expect("no answer came");
            if wanted(&answer.expect("the connection is over")) {
                return;
            }
        }
    }

    async fn subscribe(&mut self, filter: String, qos: u8) {
        self.client.subscribe(filter, quality(qos)).await.expect("sent");
        self.answer(|answer| matches!(answer, Packet::SubAck(_))).await;
    }

    async fn publish(&mut self, topic: String, text: &str, qos: u8, retain: bool) {
        self.client.publish(topic, quality(qos), retain, text.to_string()).await.expect("sent");
        match qos {
            1 => self.answer(|answer| matches!(answer, Packet::PubAck(_))).await,
            2 => self.answer(|answer| matches!(answer, Packet::PubComp(_))).await,
            _ => {}
        }
    }

    async fn close(self) {
        self.client.disconnect().await.expect("sent");
        timeout(WAIT, self.turning).await.expect("the end").ok();
    }
}

pub async fn job(place: &Place) {
    let mut subscriber = Client::connect(place, "subscriber", true, None).await;
    assert!(!subscriber.session_present);
    let will = LastWill::new(place.topic("will"), "gone", QoS::AtLeastOnce, false, None);
    let mut publisher = Client::connect(place, "publisher", false, Some(will)).await;
    subscriber.subscribe(place.topic("data"), 2).await;
    subscriber.subscribe(place.topic("will"), 1).await;

    for qos in 0..3 {
        publisher.publish(place.topic("data"), &qos.to_string(), qos, false).await;
        let wanted = Message { text: qos.to_string(), qos, retain: false };
        assert_eq!(next(&mut subscriber.inbox).await, wanted);
    }

    publisher.publish(place.topic("kept"), "kept", 1, true).await;
    let mut late = Client::connect(place, "late", false, None).await;
    late.subscribe(place.topic("kept"), 1).await;
    let wanted = Message { text: "kept".to_string(), qos: 1, retain: true };
    assert_eq!(next(&mut late.inbox).await, wanted);
    late.close().await;

    subscriber.close().await;
    publisher.publish(place.topic("data"), "while away", 2, false).await;
    subscriber = Client::connect(place, "subscriber", true, None).await;
    assert!(subscriber.session_present);
    assert_eq!(next(&mut subscriber.inbox).await.text, "while away");

    let mut one = Client::connect(place, "one", false, None).await;
    let mut two = Client::connect(place, "two", false, None).await;
    let share = format!("$share/group/{}", place.topic("jobs"));
    one.subscribe(share.clone(), 1).await;
    two.subscribe(share, 1).await;
    for number in 0..20 {
        publisher.publish(place.topic("jobs"), &number.to_string(), 1, false).await;
    }
    let mut done = HashSet::new();
    while done.len() < 20 {
        let job = tokio::select! {
            job = next(&mut one.inbox) => job,
            job = next(&mut two.inbox) => job,
        };
        assert!(done.insert(job.text), "a job for one member");
    }
    one.close().await;
    two.close().await;

    publisher.turning.abort();
    assert_eq!(next(&mut subscriber.inbox).await.text, "gone");
    subscriber.close().await;
}
