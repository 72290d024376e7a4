//! rumqttc against a broker: smoke <url> <4|5> <topic prefix>. Says "ok".

mod version3;
mod version5;

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

pub const WAIT: Duration = Duration::from_secs(10);

/// What came, and how.
#[derive(Debug, PartialEq)]
pub struct Message {
    pub text: String,
    pub qos: u8,
    pub retain: bool,
}

/// The messages of one client, oldest first.
pub type Inbox = UnboundedReceiver<Message>;

pub async fn next(inbox: &mut Inbox) -> Message {
    timeout(WAIT, inbox.recv()).await.expect("no message came").expect("the connection is over")
}

/// Where the broker is, and under which names its topics and clients may be.
pub struct Place {
    pub url: String,
    pub prefix: String,
}

impl Place {
    pub fn topic(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    pub fn client_id(&self, name: &str) -> String {
        self.topic(name).replace('/', "-")
    }

    /// Host and port of mqtt://host:port.
    pub fn address(&self) -> (String, u16) {
        let address = self.url.split("://").nth(1).expect("a URL");
        let (host, port) = address.split('/').next().unwrap().rsplit_once(':').expect("a port");
        (host.to_string(), port.parse().expect("a number"))
    }

    pub fn websocket(&self) -> bool {
        self.url.starts_with("ws://")
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let given: Vec<String> = std::env::args().collect();
    let place = Place { url: given[1].clone(), prefix: given[3].clone() };
    if given[2] == "5" {
        version5::job(&place).await;
    } else {
        version3::job(&place).await;
    }
    println!("ok");
}
