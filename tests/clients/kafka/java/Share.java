import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListShareGroupOffsetsSpec;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.ShareGroupDescription;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.GroupType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Share groups: the part named by the second argument, or all that need no more; prints "ok". */
public class Share {
    static final Properties COMMON = new Properties();
    static Admin admin;

    public static void main(String[] arguments) throws Exception {
        COMMON.put("bootstrap.servers", arguments[0]);
        try (Admin opened = Admin.create(COMMON)) {
            admin = opened;
            if (arguments.length > 1) {
                count(arguments[1], Integer.parseInt(arguments[2]));
            } else {
                for (Part part : List.<Part>of(Share::implicit, Share::explicit, Share::timeOut, Share::offsets)) {
                    long begin = System.currentTimeMillis();
                    part.run();
                    System.out.println(System.currentTimeMillis() - begin + " ms");
                }
            }
        }
        System.out.println("ok");
    }

    interface Part {
        void run() throws Exception;
    }

    /** Two members share one topic of two partitions, and each record comes once. */
    static void implicit() throws Exception {
        topic("implicit", 2);
        settings("implicit", Map.of());
        Map<String, Integer> seen = new ConcurrentHashMap<>();
        Set<Long> members = ConcurrentHashMap.newKeySet();
        List<Thread> threads = new ArrayList<>();
        for (int member = 0; member < 2; member++) {
            threads.add(new Thread(() -> {
                try (var consumer = consumer("implicit", "implicit", Map.of("max.poll.records", "50"))) {
                    until(() -> {
                        for (var record : consumer.poll(Duration.ofMillis(200))) {
                            seen.merge(record.value(), 1, Integer::sum);
                            members.add(Thread.currentThread().getId());
                        }
                        return seen.size() == 1000;
                    });
                    consumer.commitSync();
                }
            }));
        }
        threads.forEach(Thread::start);
        until(() -> members("implicit") == 2);
        produce("implicit", 0, 1000);
        for (Thread thread : threads) {
            thread.join();
        }
        check(seen.size() == 1000, seen.size() + " records");
        check(seen.values().stream().allMatch(times -> times == 1), "a record came twice");
        check(members.size() == 2, "one member had all");
    }

    /** Accept, release, reject; a released record comes again with a higher delivery count. */
    static void explicit() throws Exception {
        topic("explicit", 1);
        settings("explicit", Map.of());
        produce("explicit", 0, 9);
        Map<String, List<Integer>> counts = new HashMap<>();
        var mode = Map.of("share.acknowledgement.mode", "explicit");
        try (var consumer = consumer("explicit", "explicit", mode)) {
            until(() -> {
                for (var record : consumer.poll(Duration.ofMillis(200))) {
                    var before = counts.computeIfAbsent(record.value(), key -> new ArrayList<>());
                    before.add((int) record.deliveryCount().get());
                    int kind = (int) (record.offset() % 3);
                    if (kind == 1) {
                        consumer.acknowledge(record, AcknowledgeType.REJECT);
                    } else if (kind == 2 && before.size() == 1) {
                        consumer.acknowledge(record, AcknowledgeType.RELEASE);
                    } else {
                        consumer.acknowledge(record, AcknowledgeType.ACCEPT);
                    }
                }
                consumer.commitSync().values().forEach(error -> check(error.isEmpty(), "" + error));
                return counts.size() == 9 && counts.values().stream().mapToInt(List::size).sum() == 12;
            });
        }
        check(counts.get("2").equals(List.of(1, 2)), "released: " + counts);
        check(counts.get("1").equals(List.of(1)), "rejected: " + counts);
        check(lag("explicit", "explicit") == 0, "all is done with");
    }

    /** What a member does not acknowledge in time is given to another; what it renews is not. */
    static void timeOut() throws Exception {
        topic("time out", 1);
        settings("time out", Map.of("share.record.lock.duration.ms", "3000"));
        produce("time out", 0, 2);
        var mode = Map.of("share.acknowledgement.mode", "explicit");
        var second = new HashMap<String, Integer>();
        try (var slow = consumer("time out", "time out", mode); var other = consumer("time out", "time out", mode)) {
            List<ConsumerRecord<String, String>> held = new ArrayList<>();
            until(() -> {
                slow.poll(Duration.ofMillis(200)).forEach(held::add);
                return held.size() == 2;
            });
            check(slow.acquisitionLockTimeoutMs().get() == 3000, "the lock's time is told");
            for (int round = 0; round < 3; round++) {
                held.forEach(record -> slow.acknowledge(record, AcknowledgeType.RENEW));
                held.clear();
                slow.commitSync().values().forEach(error -> check(error.isEmpty(), "" + error));
                until(() -> {
                    slow.poll(Duration.ofMillis(100)).forEach(held::add);
                    return held.size() == 2;
                });
                for (var record : other.poll(Duration.ofMillis(1200))) {
                    throw new AssertionError("a renewed record came: " + record.offset());
                }
            }
            until(() -> {
                for (var record : other.poll(Duration.ofMillis(200))) {
                    second.put(record.value(), (int) record.deliveryCount().get());
                    other.acknowledge(record, AcknowledgeType.ACCEPT);
                }
                other.commitSync();
                return second.size() == 2;
            });
        }
        check(second.equals(Map.of("0", 2, "1", 2)), "" + second);
    }

    /** Groups are listed, described, moved, and deleted. */
    static void offsets() throws Exception {
        var here = new TopicPartition("implicit", 0);
        var listed = admin.listGroups().all().get(20, TimeUnit.SECONDS);
        check(listed.stream().filter(one -> one.type().equals(java.util.Optional.of(GroupType.SHARE))).count() == 3, "" + listed);
        try (var consumer = consumer("implicit", "implicit", Map.of())) {
            until(() -> {
                consumer.poll(Duration.ofMillis(100));
                return describe("implicit").members().size() == 1;
            });
            var group = describe("implicit");
            check(group.groupState() == GroupState.STABLE, "" + group);
            var parts = group.members().iterator().next().assignment().topicPartitions();
            check(parts.size() == 2, "" + parts);
        }
        until(() -> describe("implicit").groupState() == GroupState.EMPTY);
        check(lag("implicit", "implicit") == 0, "the lag is " + lag("implicit", "implicit"));
        admin.alterShareGroupOffsets("implicit", Map.of(here, 0L)).all().get(20, TimeUnit.SECONDS);
        check(lag("implicit", "implicit") > 0, "the start is moved");
        Set<String> again = new HashSet<>();
        try (var consumer = consumer("implicit", "implicit", Map.of())) {
            until(() -> {
                consumer.poll(Duration.ofMillis(200)).forEach(record -> again.add(record.value()));
                return again.size() > 300;
            });
        }
        admin.deleteShareGroupOffsets("implicit", Set.of("implicit")).all().get(20, TimeUnit.SECONDS);
        var left = admin.listShareGroupOffsets(Map.of("implicit", new ListShareGroupOffsetsSpec()))
            .partitionsToOffsetInfo("implicit").get(20, TimeUnit.SECONDS);
        check(left.isEmpty(), "" + left);
        admin.deleteShareGroups(List.of("implicit", "explicit")).all().get(20, TimeUnit.SECONDS);
        listed = admin.listGroups().all().get(20, TimeUnit.SECONDS);
        check(listed.size() == 1, "" + listed);
    }

    /** Consume a topic that somebody fills until so many different records came; print deliveries. */
    static void count(String topic, int records) throws Exception {
        settings("count", Map.of("share.record.lock.duration.ms", "5000"));
        Map<String, AtomicInteger> seen = new ConcurrentHashMap<>();
        List<Thread> threads = new ArrayList<>();
        for (int member = 0; member < 3; member++) {
            threads.add(new Thread(() -> {
                try (var consumer = consumer("count", topic, Map.of("max.poll.records", "20"))) {
                    until(() -> {
                        for (var record : consumer.poll(Duration.ofMillis(200))) {
                            seen.computeIfAbsent(record.value(), key -> new AtomicInteger()).incrementAndGet();
                        }
                        return seen.size() >= records;
                    });
                }
            }));
        }
        threads.forEach(Thread::start);
        for (Thread thread : threads) {
            thread.join();
        }
        System.out.println(seen.size() + " " + seen.values().stream().mapToInt(AtomicInteger::get).sum());
    }

    static KafkaShareConsumer<String, String> consumer(String group, String topic, Map<String, String> more) {
        Properties properties = new Properties();
        properties.putAll(COMMON);
        properties.putAll(more);
        properties.put("group.id", group);
        var consumer = new KafkaShareConsumer<>(properties, new StringDeserializer(), new StringDeserializer());
        consumer.subscribe(List.of(topic.replace(' ', '.')));
        return consumer;
    }

    static void topic(String name, int partitions) throws Exception {
        var made = new NewTopic(name.replace(' ', '.'), partitions, (short) 1);
        admin.createTopics(List.of(made)).all().get(20, TimeUnit.SECONDS);
    }

    static void settings(String group, Map<String, String> more) throws Exception {
        Collection<AlterConfigOp> changes = new ArrayList<>();
        Map<String, String> all = new HashMap<>(more);
        all.put("share.auto.offset.reset", "earliest");
        all.forEach((name, value) -> changes.add(new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET)));
        var resource = new ConfigResource(ConfigResource.Type.GROUP, group);
        admin.incrementalAlterConfigs(Map.of(resource, changes)).all().get(20, TimeUnit.SECONDS);
        var read = admin.describeConfigs(List.of(resource)).all().get(20, TimeUnit.SECONDS).get(resource);
        check(read.get("share.auto.offset.reset").value().equals("earliest"), "" + read);
    }

    static void produce(String topic, int from, int to) throws Exception {
        try (var producer = new KafkaProducer<>(COMMON, new StringSerializer(), new StringSerializer())) {
            for (int number = from; number < to; number++) {
                String text = Integer.toString(number);
                producer.send(new ProducerRecord<>(topic.replace(' ', '.'), text, text));
            }
            producer.flush();
        }
    }

    static long lag(String group, String topic) throws Exception {
        var asked = admin.listShareGroupOffsets(Map.of(group, new ListShareGroupOffsetsSpec()));
        long lag = 0;
        for (var entry : asked.partitionsToOffsetInfo(group).get(20, TimeUnit.SECONDS).entrySet()) {
            check(entry.getKey().topic().equals(topic.replace(' ', '.')), "" + entry);
            lag += entry.getValue().lag().get();
        }
        return lag;
    }

    static int members(String group) {
        try {
            return describe(group).members().size();
        } catch (AssertionError error) {
            return 0;
        }
    }

    static ShareGroupDescription describe(String group) {
        try {
            return admin.describeShareGroups(List.of(group)).all().get(20, TimeUnit.SECONDS).get(group);
        } catch (Exception error) {
            throw new AssertionError(error);
        }
    }

    static void until(BooleanSupplier condition) {
        long deadline = System.currentTimeMillis() + 30_000;
        while (!condition.getAsBoolean()) {
            check(System.currentTimeMillis() < deadline, "it did not come in time");
        }
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }
}
