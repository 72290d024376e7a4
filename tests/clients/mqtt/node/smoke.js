// MQTT.js against a broker: node smoke.js <url> <3|4|5> <topic prefix> [CA file]. Says "ok".
"use strict";
const fs = require("fs");
const mqtt = require("mqtt");

const [url, level, prefix, ca] = process.argv.slice(2);
const version = Number(level);
const protocol = version === 3 ? { protocolId: "MQIsdp" } : {};

function check(condition, what) {
  if (!condition) throw new Error(what);
}

// A client whose messages wait in a queue.
class Client {
  constructor(name, options = {}) {
    this.waiting = [];
    this.wanted = [];
    this.stream = mqtt.connect(url, {
      clientId: `${prefix}-${name}`.replaceAll("/", "-"),
      protocolVersion: version,
      reconnectPeriod: 0,
      connectTimeout: 10000,
      ca: ca && fs.readFileSync(ca),
      ...protocol,
      ...options,
    });
    this.stream.on("message", (topic, payload, packet) => {
      const message = { topic, text: payload.toString(), qos: packet.qos, retain: packet.retain };
      const taker = this.wanted.shift();
      taker ? taker(message) : this.waiting.push(message);
    });
    this.connected = new Promise((settle, fail) => {
      this.stream.once("connect", settle);
      this.stream.once("error", fail);
    });
  }

  next() {
    const ready = this.waiting.shift();
    if (ready) return Promise.resolve(ready);
    return new Promise((settle, fail) => {
      const timer = setTimeout(() => fail(new Error("no message came")), 10000);
      this.wanted.push((message) => {
        clearTimeout(timer);
        settle(message);
      });
    });
  }

  subscribe(filter, qos) {
    return this.stream.subscribeAsync(filter, { qos });
  }

  publish(topic, text, qos, retain = false) {
    return this.stream.publishAsync(topic, text, { qos, retain });
  }

  close() {
    return this.stream.endAsync();
  }
}

async function main() {
  const stays = version === 5 ? { clean: false, properties: { sessionExpiryInterval: 60 } } : { clean: false };
  let subscriber = new Client("subscriber", stays);
  let answer = await subscriber.connected;
  check(!answer.sessionPresent, "no session yet");
  const publisher = new Client("publisher", {
    will: { topic: `${prefix}/will`, payload: "gone", qos: 1, retain: false },
  });
  await publisher.connected;
  await subscriber.subscribe(`${prefix}/data`, 2);
  await subscriber.subscribe(`${prefix}/will`, 1);

  for (const qos of [0, 1, 2]) {
    await publisher.publish(`${prefix}/data`, `${qos}`, qos);
    const message = await subscriber.next();
    check(message.text === `${qos}` && message.qos === qos && !message.retain, `QoS ${qos}`);
  }

  await publisher.publish(`${prefix}/kept`, "kept", 1, true);
  const late = new Client("late");
  await late.connected;
  await late.subscribe(`${prefix}/kept`, 1);
  const kept = await late.next();
  check(kept.text === "kept" && kept.retain, "a retained message");
  await late.close();

  await subscriber.close();
  await publisher.publish(`${prefix}/data`, "while away", 2);
  subscriber = new Client("subscriber", stays);
  answer = await subscriber.connected;
  check(version === 3 || answer.sessionPresent, "the session is there");
  check((await subscriber.next()).text === "while away", "what waited");

  if (version === 5) {
    const members = [new Client("one"), new Client("two")];
    for (const member of members) {
      await member.connected;
      await member.subscribe(`$share/group/${prefix}/jobs`, 1);
    }
    for (let job = 0; job < 20; job += 1) await publisher.publish(`${prefix}/jobs`, `${job}`, 1);
    const done = await new Promise((settle) => {
      const look = setInterval(() => {
        if (members[0].waiting.length + members[1].waiting.length < 20) return;
        clearInterval(look);
        settle(members.map((member) => member.waiting.map((message) => message.text)));
      }, 20);
    });
    check(new Set(done.flat()).size === 20 && done[0].length && done[1].length, "shared jobs");
    for (const member of members) await member.close();
  }

  publisher.stream.on("error", () => {});
  publisher.stream.stream.destroy();
  check((await subscriber.next()).text === "gone", "the will");
  await subscriber.close();
}

main().then(
  () => {
    console.log("ok");
    process.exit(0);
  },
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
