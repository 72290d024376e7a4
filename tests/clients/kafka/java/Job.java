import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** The job of the matrix (tests/clients/test_kafka_matrix.py) with Apache Kafka's own client. */
public class Job {
    static final int COUNT = 60;
    static final int PARTITIONS = 6;
    static final long WAIT_S = 40;
    static final String PADDING = "x".repeat(200);
    static final List<String> CODECS = List.of("none", "gzip", "snappy", "lz4", "zstd");

    final String name;
    final Properties shared = new Properties();
    final Admin admin;
    final Map<String, KafkaProducer<String, String>> producers = new HashMap<>();
    final List<String> rows = new ArrayList<>();

    Job(String name, String address) {
        this.name = name;
        shared.put("bootstrap.servers", address);
        admin = Admin.create(shared);
    }

    public static void main(String[] arguments) throws Exception {
        Job job = new Job(arguments[0], arguments[1]);
        var input = new BufferedReader(new InputStreamReader(System.in));
        long between = job.produceAll();
        Member first = job.share();
        System.out.println("first");
        Map<String, Integer> counts = new HashMap<>();
        for (String word : input.readLine().trim().split(" ")) {
            counts.put(word.split("=")[0], Integer.parseInt(word.split("=")[1]));
        }
        job.resume(first, between);
        job.administer();
        for (String codec : CODECS) {
            job.showCross(codec, counts.get(codec));
        }
        System.out.println("ok");
        System.exit(0);
    }

    long produceAll() throws Exception {
        var topic = new NewTopic(name, PARTITIONS, (short) 1).configs(Map.of("retention.ms", "1000000"));
        get(admin.createTopics(List.of(topic)).all());
        for (String codec : CODECS) {
            send(name, codec, codec, COUNT);
            send("cross." + codec, codec, codec, COUNT);
            System.out.println("wrote " + codec);
        }
        Thread.sleep(50);
        long between = System.currentTimeMillis();
        Thread.sleep(50);
        send("light." + name, "none", "none", 1);
        return between;
    }

    Member share() throws Exception {
        Member first = new Member();
        await(() -> first.assigned.size() == PARTITIONS, "the first member's assignment");
        await(() -> first.rows.size() >= rows.size(), "all records at the first member");
        same(first.rows, "the first member");
        first.commit();
        Member second = new Member();
        await(() -> first.assigned.size() == 3 && second.assigned.size() == 3, "an even share");
        send(name, "both", "zstd", COUNT);
        await(() -> first.rows.size() + second.rows.size() >= rows.size(), "the records of both");
        check(!second.rows.isEmpty(), "something at the second member");
        first.commit();
        second.commit();
        second.close();
        await(() -> first.assigned.size() == PARTITIONS, "what the second member left");
        first.rows.addAll(second.rows);
        same(first.rows, "both members");
        return first;
    }

    void resume(Member member, long between) throws Exception {
        send(name, "restarted", "zstd", COUNT);
        await(() -> member.rows.size() >= rows.size(), "the records after the restart");
        same(member.rows, "after the restart");
        member.commit();
        long committed = 0;
        var offsets = get(admin.listConsumerGroupOffsets(name).partitionsToOffsetAndMetadata());
        for (var entry : offsets.values()) {
            committed += entry.offset();
        }
        check(committed == rows.size(), committed + " are committed");
        check(offsetsAt(between) == CODECS.size() * COUNT, "the offsets of a time: " + offsetsAt(between));
        check(offsetsAt(System.currentTimeMillis() + 10_000_000) == -PARTITIONS, "no offsets of the future");
        var described = get(admin.describeConsumerGroups(List.of(name)).all()).get(name);
        check(described.members().size() == 1, "one member");
        var listed = get(admin.listGroups().all());
        check(listed.stream().anyMatch(group -> group.groupId().equals(name)), "the group is listed");
        member.close();
    }

    long offsetsAt(long timestamp) throws Exception {
        Map<TopicPartition, OffsetSpec> wanted = new HashMap<>();
        for (int index = 0; index < PARTITIONS; index++) {
            wanted.put(new TopicPartition(name, index), OffsetSpec.forTimestamp(timestamp));
        }
        return get(admin.listOffsets(wanted).all()).values().stream().mapToLong(found -> found.offset()).sum();
    }

    void administer() throws Exception {
        check(partitionsOf(name) == PARTITIONS, "six partitions");
        check(partitionsOf("light." + name) == 1, "one partition of a topic that was not created");
        var resource = new ConfigResource(ConfigResource.Type.TOPIC, name);
        check(retention(resource).equals("1000000"), "the setting");
        var change = new AlterConfigOp(new ConfigEntry("retention.ms", "2000000"), AlterConfigOp.OpType.SET);
        get(admin.incrementalAlterConfigs(Map.of(resource, List.of(change))).all());
        check(retention(resource).equals("2000000"), "the changed setting");
        get(admin.createPartitions(Map.of(name, NewPartitions.increaseTo(PARTITIONS + 2))).all());
        check(partitionsOf(name) == PARTITIONS + 2, "two more partitions");
        get(admin.deleteConsumerGroups(List.of(name)).all());
        get(admin.deleteTopics(List.of(name)).all());
        check(!get(admin.listTopics().names()).contains(name), "the topic is gone");
    }

    int partitionsOf(String topic) throws Exception {
        return get(admin.describeTopics(List.of(topic)).allTopicNames()).get(topic).partitions().size();
    }

    String retention(ConfigResource resource) throws Exception {
        return get(admin.describeConfigs(List.of(resource)).all()).get(resource).get("retention.ms").value();
    }

    void showCross(String codec, int count) throws Exception {
        Map<String, Integer> found = new TreeMap<>();
        try (var consumer = consumer(null)) {
            List<TopicPartition> places = new ArrayList<>();
            for (int index = 0; index < partitionsOf("cross." + codec); index++) {
                places.add(new TopicPartition("cross." + codec, index));
            }
            consumer.assign(places);
            consumer.seekToBeginning(places);
            long deadline = System.currentTimeMillis() + WAIT_S * 1000;
            for (int seen = 0; seen < count; ) {
                check(System.currentTimeMillis() < deadline, seen + " of " + count + " records of " + codec);
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(200))) {
                    seen++;
                    String other = header(record, "library");
                    String number = record.key().substring(4);
                    if (record.value().equals(other + " " + codec + " " + number + " " + PADDING)) {
                        found.merge(other, 1, Integer::sum);
                    }
                }
            }
        }
        found.forEach((other, number) -> System.out.println("read " + other + " " + codec + " " + number));
    }

    static String header(ConsumerRecord<String, String> record, String key) {
        return new String(record.headers().lastHeader(key).value(), StandardCharsets.UTF_8);
    }

    void send(String topic, String word, String codec, int count) throws Exception {
        var producer = producers.computeIfAbsent(codec, ignored -> {
            Properties properties = new Properties();
            properties.putAll(shared);
            properties.put("compression.type", codec);
            properties.put("linger.ms", "20");
            return new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer());
        });
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            String value = name + " " + word + " " + number + " " + PADDING;
            var record = new ProducerRecord<>(topic, "key " + number, value);
            record.headers().add("library", name.getBytes()).add("codec", word.getBytes()).add("empty", new byte[0]);
            sent.add(producer.send(record));
            if (topic.equals(name)) {
                rows.add("key " + number + "=" + value);
            }
        }
        producer.flush();
        for (var future : sent) {
            future.get(WAIT_S, TimeUnit.SECONDS);
        }
    }

    KafkaConsumer<String, String> consumer(String group) {
        Properties properties = new Properties();
        properties.putAll(shared);
        properties.put("auto.offset.reset", "earliest");
        properties.put("enable.auto.commit", "false");
        properties.put("heartbeat.interval.ms", "300");
        if (group != null) {
            properties.put("group.id", group);
        }
        return new KafkaConsumer<>(properties, new StringDeserializer(), new StringDeserializer());
    }

    void same(List<String> found, String what) {
        List<String> left = new ArrayList<>(found);
        List<String> right = new ArrayList<>(rows);
        Collections.sort(left);
        Collections.sort(right);
        check(left.equals(right), what + ": " + left.size() + " rows, " + right.size() + " wanted");
    }

    static <T> T get(KafkaFuture<T> future) throws Exception {
        return future.get(WAIT_S, TimeUnit.SECONDS);
    }

    static void await(BooleanSupplier condition, String what) throws Exception {
        long deadline = System.currentTimeMillis() + WAIT_S * 1000;
        while (!condition.getAsBoolean()) {
            check(System.currentTimeMillis() < deadline, what + " did not come");
            Thread.sleep(20);
        }
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            new AssertionError(what).printStackTrace();
            System.exit(1);
        }
    }

    /** A consumer of the group, polled by a thread of its own. */
    class Member implements ConsumerRebalanceListener {
        final Set<TopicPartition> assigned = Collections.synchronizedSet(new HashSet<>());
        final List<String> rows = Collections.synchronizedList(new ArrayList<>());
        volatile CountDownLatch wanted;
        volatile boolean stopped;
        final Thread thread = new Thread(this::run);

        Member() {
            thread.setDaemon(true);
            thread.start();
        }

        void run() {
            try (var consumer = consumer(name)) {
                consumer.subscribe(List.of(name), this);
                while (!stopped) {
                    for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(50))) {
                        check(header(record, "library").equals(name), "a header");
                        check(record.headers().lastHeader("empty").value().length == 0, "an empty header");
                        rows.add(record.key() + "=" + record.value());
                    }
                    if (wanted != null) {
                        consumer.commitSync();
                        wanted.countDown();
                        wanted = null;
                    }
                }
            } catch (Exception error) {
                error.printStackTrace();
                System.exit(1);
            }
        }

        void commit() throws Exception {
            CountDownLatch done = new CountDownLatch(1);
            wanted = done;
            check(done.await(WAIT_S, TimeUnit.SECONDS), "the commit did not come");
        }

        void close() throws Exception {
            stopped = true;
            thread.join(WAIT_S * 1000);
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> places) {
            assigned.addAll(places);
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> places) {
            assigned.removeAll(places);
        }
    }
}
