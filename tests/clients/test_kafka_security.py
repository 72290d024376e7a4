"""SASL, TLS and access rules with the clients that people use: confluent-kafka (librdkafka),
aiokafka, kafka-python. One broker of two workers, which is killed and comes again at the end."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiokafka
import confluent_kafka.admin
import kafka
import pytest
from cryptography import x509

from tests.broker import BrokerProcess, until
from tests.clients.test_kafka_tools import Shell
from tests.kafka.wire import SocketClient
from tests.mqtt.wire import Wire
from tests.net.carriers import Certificates

admin: Any = confluent_kafka.admin
TIMEOUT_S = 20.0
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
PASSWORDS = {"root": "root secret", "fay": "of the file", "cora": "of the configuration"}


def config(certificates: Certificates, passwords: Path) -> str:
    mechanisms = "[" + ", ".join(f'"{name}"' for name in MECHANISMS) + "]"
    certificate = certificates.directory / "server.pem"
    return f"""
[security]
password_file = "{passwords}"
super_users = ["User:root"]
allow_if_no_acl = false
[[kafka.user]]
name = "root"
password = "{PASSWORDS["root"]}"
[[kafka.user]]
name = "cora"
password = "{PASSWORDS["cora"]}"
[[listener]]
name = "plain"
protocol = "kafka"
port = 0
[[listener]]
name = "sasl"
protocol = "kafka"
port = 0
sasl_mechanisms = {mechanisms}
[[listener]]
name = "ssl"
protocol = "kafka"
transport = "tls"
port = 0
certificate = "{certificate}"
client_ca = "{certificates.ca}"
[[listener]]
name = "sasl_ssl"
protocol = "kafka"
transport = "tls"
port = 0
certificate = "{certificate}"
sasl_mechanisms = {mechanisms}
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    made.server("server")
    return made


@pytest.fixture(scope="module")
def broker(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[BrokerProcess]:
    directory = tmp_path_factory.mktemp("security")
    passwords = directory / "passwords"
    command = [sys.executable, "-m", "robustmq.cli.main", "passwd", str(passwords), "fay"]
    command += ["--stdin", "--scram"]
    subprocess.run(command, input=PASSWORDS["fay"] + "\n", text=True, check=True)
    with BrokerProcess(directory, 2, config(certificates, passwords)) as running:
        yield running


def options(
    broker: BrokerProcess, certificates: Certificates, listener: str, **more: str
) -> dict[str, Any]:
    """What librdkafka is told."""
    protocol = {"plain": "PLAINTEXT"}.get(listener, {"sasl": "SASL_PLAINTEXT"}.get(listener))
    return {
        "bootstrap.servers": f"localhost:{broker.listeners[listener]}",
        "security.protocol": protocol or listener.upper(),
        "ssl.ca.location": str(certificates.ca),
        **{name.replace("_", "."): value for name, value in more.items()},
    }


def login(user: str, mechanism: str = "SCRAM-SHA-256", password: str | None = None) -> Any:
    return {
        "sasl_mechanisms": mechanism,
        "sasl_username": user,
        "sasl_password": PASSWORDS[user] if password is None else password,
    }


@pytest.fixture(scope="module")
def root(broker: BrokerProcess, certificates: Certificates) -> Any:
    return admin.AdminClient(options(broker, certificates, "sasl", **login("root", "PLAIN")))


def allow(root: Any, principal: str, name: str, *operations: Any, kind: Any = None) -> None:
    rules = [
        admin.AclBinding(
            kind or admin.ResourceType.TOPIC,
            name,
            admin.ResourcePatternType.LITERAL,
            principal,
            "*",
            operation,
            admin.AclPermissionType.ALLOW,
        )
        for operation in operations
    ]
    for future in root.create_acls(rules).values():
        future.result(TIMEOUT_S)


def made_topic(root: Any) -> str:
    name = uuid.uuid4().hex
    root.create_topics([admin.NewTopic(name, 4)])[name].result(TIMEOUT_S)
    return name


def produced(settings: dict[str, Any], topic: str) -> Any:
    """Produce one record to each of four partitions; the first error, None when there is none."""
    errors: list[Any] = []
    producer = confluent_kafka.Producer({**settings, "message.timeout.ms": 10_000})
    for partition in range(4):
        producer.produce(
            topic, b"v", partition=partition, on_delivery=lambda error, _: errors.append(error)
        )
    assert producer.flush(TIMEOUT_S) == 0
    return next((error for error in errors if error is not None), None)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(("user", "listener"), [("fay", "sasl_ssl"), ("cora", "sasl")])
def test_librdkafka_comes_in_with_each_mechanism_and_writes_to_all_leaders(
    broker: BrokerProcess,
    certificates: Certificates,
    root: Any,
    listener: str,
    mechanism: str,
    user: str,
) -> None:
    topic = made_topic(root)
    allow(root, f"User:{user}", topic, admin.AclOperation.WRITE)
    settings = options(broker, certificates, listener, **login(user, mechanism))
    assert produced(settings, topic) is None
    # Every broker that it was told of is at this listener's own addresses.
    found = admin.AdminClient(settings).list_topics(timeout=TIMEOUT_S).brokers
    others = {broker.listeners[name] for name in broker.listeners} - {broker.listeners[listener]}
    assert len(found) == 2 and not others & {one.port for one in found.values()}


@pytest.mark.parametrize(
    ("user", "mechanism"),
    [("fay", "PLAIN"), ("fay", "SCRAM-SHA-512"), ("nobody", "PLAIN"), ("nobody", "SCRAM-SHA-256")],
)
def test_a_wrong_password_is_told_and_logged(
    broker: BrokerProcess, certificates: Certificates, mechanism: str, user: str
) -> None:
    seen: list[Any] = []
    settings = options(broker, certificates, "sasl", **login(user, mechanism, password="wrong"))
    before = broker.metric("robustmq_kafka_authentications_refused_total")
    client = admin.AdminClient({**settings, "error_cb": seen.append})
    until(lambda: client.poll(0.1) or seen, TIMEOUT_S, "the refusal")
    assert seen[0].code() == confluent_kafka.KafkaError._AUTHENTICATION
    until(lambda: broker.metric("robustmq_kafka_authentications_refused_total") > before)


def test_kafka_python_speaks_sasl_and_is_told_of_refusals(
    broker: BrokerProcess, certificates: Certificates, root: Any
) -> None:
    topic = made_topic(root)
    allow(root, "User:fay", topic, admin.AclOperation.WRITE)
    for mechanism in MECHANISMS:
        settings = {
            "bootstrap_servers": f"localhost:{broker.listeners['sasl_ssl']}",
            "security_protocol": "SASL_SSL",
            "ssl_cafile": str(certificates.ca),
            "sasl_mechanism": mechanism,
            "sasl_plain_username": "fay",
        }
        producer = kafka.KafkaProducer(**settings, sasl_plain_password=PASSWORDS["fay"])
        assert producer.send(topic, b"v", partition=1).get(TIMEOUT_S).offset >= 0
        producer.close()


def test_aiokafka_reads_what_it_may_and_nothing_else(broker: BrokerProcess, root: Any) -> None:
    topic, hidden = made_topic(root), made_topic(root)
    allow(root, "User:cora", topic, admin.AclOperation.WRITE, admin.AclOperation.READ)
    settings = {
        "bootstrap_servers": f"localhost:{broker.listeners['sasl']}",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "cora",
        "sasl_plain_password": PASSWORDS["cora"],
    }

    async def work() -> None:
        async with aiokafka.AIOKafkaProducer(**settings) as producer:
            await producer.send_and_wait(topic, b"v", partition=2)
        consumer = aiokafka.AIOKafkaConsumer(**settings)
        await consumer.start()
        try:
            partition = aiokafka.TopicPartition(topic, 2)
            consumer.assign([partition])
            await consumer.seek_to_beginning()
            message = await asyncio.wait_for(consumer.getone(), TIMEOUT_S)
            assert message.value == b"v"
            seen = await consumer.topics()
            assert topic in seen and hidden not in seen
        finally:
            await consumer.stop()

    asyncio.run(work())


def test_kcat_comes_in(broker: BrokerProcess, certificates: Certificates) -> None:
    """By PLAIN: librdkafka before 2.6.1 answers SCRAM with a nonce that RFC 5802 does not allow,
    which Apache Kafka refuses, too (CVE-2024-56128)."""
    command = ["kcat", "-L", "-b", f"localhost:{broker.listeners['sasl_ssl']}"]
    for name, value in options(broker, certificates, "sasl_ssl", **login("fay", "PLAIN")).items():
        command += ["-X", f"{name}={value}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert "2 brokers" in done.stdout, done.stderr


def test_a_user_made_at_run_time_comes_in_and_is_gone_when_deleted(
    broker: BrokerProcess, certificates: Certificates, root: Any
) -> None:
    user = uuid.uuid4().hex
    topic = made_topic(root)
    allow(root, f"User:{user}", topic, admin.AclOperation.WRITE)
    info = admin.ScramCredentialInfo(admin.ScramMechanism.SCRAM_SHA_256, 4096)
    change = admin.UserScramCredentialUpsertion(user, info, b"first")
    root.alter_user_scram_credentials([change])[user].result(TIMEOUT_S)
    described = root.describe_user_scram_credentials([user])[user].result(TIMEOUT_S)
    assert [one.iterations for one in described.scram_credential_infos] == [4096]
    settings = options(broker, certificates, "sasl", **login(user, password="first"))
    assert produced(settings, topic) is None
    # The same password proves the user by PLAIN, too.
    plain = options(broker, certificates, "sasl", **login(user, "PLAIN", password="first"))
    assert produced(plain, topic) is None
    deletion = admin.UserScramCredentialDeletion(user, admin.ScramMechanism.SCRAM_SHA_256)
    root.alter_user_scram_credentials([deletion])[user].result(TIMEOUT_S)
    seen: list[Any] = []
    client = admin.AdminClient({**settings, "error_cb": seen.append})
    until(lambda: client.poll(0.1) or seen, TIMEOUT_S, "the refusal")
    assert seen[0].code() == confluent_kafka.KafkaError._AUTHENTICATION


def test_a_certificate_says_who_the_client_is(
    broker: BrokerProcess, certificates: Certificates, root: Any
) -> None:
    topic = made_topic(root)
    client = str(certificates.client("device", "device 7"))
    settings = options(broker, certificates, "ssl")
    known = {**settings, "ssl.certificate.location": client, "ssl.key.location": client}
    error = produced(known, topic)
    assert error is not None and error.code() == 29
    subject = x509.load_pem_x509_certificate(Path(client).read_bytes()).subject
    allow(root, f"User:{subject.rfc4514_string()}", topic, admin.AclOperation.WRITE)
    assert produced(known, topic) is None
    # Without a certificate the client is anonymous, and may not.
    error = produced(settings, topic)
    assert error is not None and error.code() == 29


def test_nothing_is_answered_before_the_proof(broker: BrokerProcess) -> None:
    with SocketClient(broker.listeners["sasl"]) as client:
        client.send(3, 9, topics=[], allow_auto_topic_creation=False)
        assert client.socket.recv(1) == b""
    with SocketClient(broker.listeners["sasl"]) as client:
        assert client.ask(18, 0).error_code == 0
        answer = client.ask(17, 1, mechanism="GSSAPI")
        assert (answer.error_code, answer.mechanisms) == (33, list(MECHANISMS))
        assert client.socket.recv(1) == b""
    with SocketClient(broker.listeners["sasl"]) as client:
        assert client.ask(17, 1, mechanism="PLAIN").error_code == 0
        assert client.ask(36, 1, auth_bytes=b"\0fay\0wrong").error_code == 58
        assert client.socket.recv(1) == b""
    with SocketClient(broker.listeners["sasl"]) as client:
        assert client.ask(17, 1, mechanism="PLAIN").error_code == 0
        token = b"\0fay\0" + PASSWORDS["fay"].encode()
        answer = client.ask(36, 2, auth_bytes=token)
        assert (answer.error_code, answer.session_lifetime_ms) == (0, 0)
        assert client.ask(36, 2, auth_bytes=token).error_code == 34
        assert client.ask(17, 1, mechanism="PLAIN").error_code == 34
        assert client.ask(3, 9, topics=[], allow_auto_topic_creation=False).topics == []
    with SocketClient(broker.listeners["plain"]) as client:
        assert client.ask(17, 1, mechanism="PLAIN").error_code == 34
        assert client.ask(36, 2, auth_bytes=b"").error_code == 34


def test_tokens_go_without_headers_after_a_handshake_of_version_0(broker: BrokerProcess) -> None:
    token = b"\0fay\0" + PASSWORDS["fay"].encode()
    with SocketClient(broker.listeners["sasl"]) as client:
        assert client.ask(17, 0, mechanism="PLAIN").error_code == 0
        client.socket.sendall(len(token).to_bytes(4, "big") + token)
        assert client.socket.recv(4) == bytes(4)
        assert client.ask(3, 9, topics=[], allow_auto_topic_creation=False).topics == []
    with SocketClient(broker.listeners["sasl"]) as client:
        assert client.ask(17, 0, mechanism="PLAIN").error_code == 0
        client.socket.sendall((len(token) + 1).to_bytes(4, "big") + token + b"x")
        assert client.socket.recv(1) == b""


def test_a_handshake_that_fails_ends_its_own_connection(
    broker: BrokerProcess, certificates: Certificates
) -> None:
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05xxxxx", b""):
        with socket.create_connection(("127.0.0.1", broker.listeners["ssl"]), TIMEOUT_S) as sock:
            sock.sendall(said)
            if said:
                # An alert may come first.
                while sock.recv(4096):
                    pass
    until(lambda: broker.metric("robustmq_tls_handshakes_failed_total") >= 2)
    settings = options(broker, certificates, "sasl_ssl", **login("fay"))
    assert admin.AdminClient(settings).list_topics(timeout=TIMEOUT_S).brokers


def test_the_tools_and_the_client_of_apache_kafka_speak_sasl(
    broker: BrokerProcess, tmp_path: Path
) -> None:
    def properties(user: str, password: str, mechanism: str) -> Path:
        kind = "plain.Plain" if mechanism == "PLAIN" else "scram.Scram"
        module = f"org.apache.kafka.common.security.{kind}LoginModule"
        file = tmp_path / f"{user}.properties"
        file.write_text(
            "security.protocol=SASL_PLAINTEXT\n"
            f"sasl.mechanism={mechanism}\n"
            f'sasl.jaas.config={module} required username="{user}" password="{password}";\n'
        )
        return file

    shell = Shell(broker, tmp_path / "errors.txt")
    shell.address = f"localhost:{broker.listeners['sasl']}"
    try:
        boss = f"--command-config {properties('root', PASSWORDS['root'], 'SCRAM-SHA-512')}"
        user = "--entity-type users --entity-name jane"
        made = "SCRAM-SHA-256=[iterations=8192,password=jane-secret]"
        shell.ok(f"kafka-configs {boss} --alter {user} --add-config {made}")
        rate = "--add-config producer_byte_rate=100000000"
        shell.ok(f"kafka-configs {boss} --alter {user} {rate}")
        told = shell.ok(f"kafka-configs {boss} --describe {user}")
        assert "SCRAM-SHA-256=iterations=8192" in told and "producer_byte_rate=1.0E8" in told
        shell.ok(f"kafka-topics {boss} --create --topic java.mine")
        shell.ok(f"kafka-topics {boss} --create --topic java.other")
        shell.ok(
            f"kafka-acls {boss} --add --allow-principal User:jane --producer --topic java.mine"
        )
        jane = properties("jane", "jane-secret", "SCRAM-SHA-256")
        perf = "kafka-producer-perf-test --num-records 100 --record-size 10 --throughput -1"
        printed = shell.ok(f"{perf} --topic java.mine --command-config {jane}")
        assert "100 records sent" in printed
        seen = shell.ok(f"kafka-topics --list --command-config {jane}").split()
        assert "java.mine" in seen and "java.other" not in seen
        code, printed = shell.run(
            f"kafka-topics --delete --topic java.mine --command-config {jane}"
        )
        assert code == 1 and "authorization failed" in printed, printed
        wrong = properties("jane", "wrong", "PLAIN")
        code, printed = shell.run(f"kafka-topics --list --command-config {wrong}")
        assert code == 1 and "Invalid username or password" in printed, printed
    finally:
        shell.close()


def test_mqtt_has_the_same_users(tmp_path: Path) -> None:
    """One worker and one port, at which each listener shows itself."""
    text = """
[[kafka.user]]
name = "cora"
password = "of the configuration"
[kafka]
single_port = true
[[listener]]
name = "one"
protocol = "kafka"
port = 0
[[listener]]
name = "two"
protocol = "kafka"
port = 0
advertised_host = "localhost"
sasl_mechanisms = ["PLAIN"]
"""
    with BrokerProcess(tmp_path, 1, text) as broker:
        for password, wanted in ((b"of the configuration", 0), (b"wrong", 0x86)):
            with Wire(broker.mqtt) as wire:
                answer = wire.connect(b"c", user_name="cora", password=password)
                assert answer.reason_code == wanted
        for name, host in (("one", "127.0.0.1"), ("two", "localhost")):
            settings = {
                "bootstrap.servers": f"127.0.0.1:{broker.listeners[name]}",
                "security.protocol": "PLAINTEXT" if name == "one" else "SASL_PLAINTEXT",
                "sasl.mechanisms": "PLAIN",
                "sasl.username": "cora",
                "sasl.password": "of the configuration",
            }
            brokers = admin.AdminClient(settings).list_topics(timeout=TIMEOUT_S).brokers
            places = [(one.host, one.port) for one in brokers.values()]
            assert places == [(host, broker.listeners[name])]


def test_users_and_rules_are_there_after_a_kill(
    broker: BrokerProcess, certificates: Certificates, root: Any
) -> None:
    user, topic = uuid.uuid4().hex, made_topic(root)
    allow(root, f"User:{user}", topic, admin.AclOperation.WRITE)
    info = admin.ScramCredentialInfo(admin.ScramMechanism.SCRAM_SHA_512, 4096)
    change = admin.UserScramCredentialUpsertion(user, info, b"first")
    root.alter_user_scram_credentials([change])[user].result(TIMEOUT_S)
    broker.kill()
    broker.start()
    settings = options(
        broker, certificates, "sasl", **login(user, "SCRAM-SHA-512", password="first")
    )
    assert produced(settings, topic) is None
