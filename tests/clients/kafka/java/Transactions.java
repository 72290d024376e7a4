import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.TransactionState;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Transactions: commit, abort, fencing, time-out, a copy exactly once; prints "ok". */
public class Transactions {
    static final int PARTITIONS = 4;
    static final int COUNT = 200;
    static final long START = System.nanoTime();
    static Properties common = new Properties();
    static Admin admin;

    public static void main(String[] arguments) throws Exception {
        common.put("bootstrap.servers", arguments[0]);
        admin = Admin.create(common);
        for (String topic : List.of("in", "late", "fenced", "stuck")) {
            admin.createTopics(List.of(new NewTopic(topic, PARTITIONS, (short) 1))).all().get(20, TimeUnit.SECONDS);
        }
        endsAsAsked();
        told("ended");
        fences();
        told("fenced");
        isTerminated();
        told("terminated");
        timesOut();
        told("timed out");
        copies("classic");
        copies("consumer");
        admin.close();
        System.out.println("ok");
    }

    static KafkaProducer<String, String> producer(String id, int timeoutMs) {
        Properties properties = new Properties();
        properties.putAll(common);
        properties.put("transactional.id", id);
        properties.put("transaction.timeout.ms", timeoutMs);
        var made = new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer());
        made.initTransactions();
        return made;
    }

    static KafkaConsumer<String, String> consumer(String group, boolean committed) {
        return consumer(group, committed, "classic");
    }

    static KafkaConsumer<String, String> consumer(String group, boolean committed, String protocol) {
        Properties properties = new Properties();
        properties.put("group.protocol", protocol);
        properties.putAll(common);
        properties.put("group.id", group);
        properties.put("auto.offset.reset", "earliest");
        properties.put("enable.auto.commit", "false");
        properties.put("isolation.level", committed ? "read_committed" : "read_uncommitted");
        properties.put("max.poll.records", "50");
        return new KafkaConsumer<>(properties, new StringDeserializer(), new StringDeserializer());
    }

    static List<String> all(String topic, int count) {
        List<String> seen = new ArrayList<>();
        try (var consumer = consumer("reader of " + topic, true)) {
            consumer.subscribe(List.of(topic));
            long deadline = System.currentTimeMillis() + 20_000;
            while (seen.size() < count && System.currentTimeMillis() < deadline) {
                consumer.poll(Duration.ofMillis(300)).forEach(record -> seen.add(record.value()));
            }
            consumer.poll(Duration.ofMillis(300)).forEach(record -> seen.add(record.value()));
        }
        return seen;
    }

    static void endsAsAsked() {
        try (var producer = producer("ends", 60_000)) {
            for (int number = 0; number < 10; number++) {
                producer.beginTransaction();
                for (int part = 0; part < COUNT / 5; part++) {
                    producer.send(new ProducerRecord<>("in", part % PARTITIONS, null, number + " " + part));
                }
                if (number % 2 == 0) {
                    producer.commitTransaction();
                } else {
                    producer.flush();
                    producer.abortTransaction();
                }
            }
        }
        var seen = all("in", COUNT);
        check(seen.size() == COUNT, seen.size() + " committed records");
        check(seen.stream().allMatch(value -> value.charAt(0) % 2 == 0), "of an aborted transaction");
    }

    static void fences() throws Exception {
        var first = producer("fence", 60_000);
        first.beginTransaction();
        first.send(new ProducerRecord<>("fenced", 0, null, "of the first")).get(10, TimeUnit.SECONDS);
        var second = producer("fence", 60_000);
        second.beginTransaction();
        second.send(new ProducerRecord<>("fenced", 1, null, "of the second"));
        try {
            first.send(new ProducerRecord<>("fenced", 2, null, "too late"));
            first.commitTransaction();
            check(false, "the first is not fenced");
        } catch (ProducerFencedException | InvalidProducerEpochException expected) {
            first.close(Duration.ZERO);
        }
        second.commitTransaction();
        second.close();
        var seen = all("fenced", 1);
        check(seen.equals(List.of("of the second")), seen.toString());
    }

    static void isTerminated() throws Exception {
        var producer = producer("stuck", 60_000);
        producer.beginTransaction();
        producer.send(new ProducerRecord<>("stuck", 0, null, "of nobody")).get(10, TimeUnit.SECONDS);
        admin.forceTerminateTransaction("stuck").result().get(20, TimeUnit.SECONDS);
        try {
            producer.commitTransaction();
            check(false, "committed though it was terminated");
        } catch (ProducerFencedException | InvalidProducerEpochException expected) {
            producer.close(Duration.ZERO);
        }
        check(all("stuck", 0).isEmpty(), "records of a terminated transaction");
    }

    static void timesOut() throws Exception {
        try (var producer = producer("late", 1_000)) {
            producer.beginTransaction();
            producer.send(new ProducerRecord<>("late", 0, null, "too late")).get(10, TimeUnit.SECONDS);
            var states = admin.listTransactions().all().get(10, TimeUnit.SECONDS);
            check(states.stream().anyMatch(one -> one.transactionalId().equals("late")), states.toString());
            await("late", TransactionState.COMPLETE_ABORT);
            try {
                producer.commitTransaction();
                check(false, "committed too late");
            } catch (KafkaException expected) {
                // Which one depends on what the client hears first.
            }
        }
        try (var producer = producer("late", 1_000)) {
            producer.beginTransaction();
            producer.send(new ProducerRecord<>("late", 0, null, "in time"));
            producer.commitTransaction();
        }
        var seen = all("late", 1);
        check(seen.equals(List.of("in time")), seen.toString());
    }

    static void await(String id, TransactionState state) throws Exception {
        long deadline = System.currentTimeMillis() + 20_000;
        while (true) {
            var found = admin.describeTransactions(List.of(id)).description(id).get(10, TimeUnit.SECONDS);
            if (found.state() == state) {
                return;
            }
            check(System.currentTimeMillis() < deadline, id + " is " + found);
            Thread.sleep(50);
        }
    }

    static void copies(String protocol) throws Exception {
        int copied = 0;
        String target = "copied by " + protocol;
        target = target.replace(' ', '-');
        admin.createTopics(List.of(new NewTopic(target, PARTITIONS, (short) 1))).all().get(20, TimeUnit.SECONDS);
        try (var producer = producer("copy", 60_000); var consumer = consumer(protocol, true, protocol)) {
            consumer.subscribe(List.of("in"));
            long deadline = System.currentTimeMillis() + 30_000;
            for (int turn = 0; copied < COUNT && System.currentTimeMillis() < deadline; turn++) {
                var records = consumer.poll(Duration.ofMillis(300));
                if (records.isEmpty()) {
                    continue;
                }
                producer.beginTransaction();
                Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                for (ConsumerRecord<String, String> record : records) {
                    producer.send(new ProducerRecord<>(target, record.partition(), null, record.value()));
                    var partition = new TopicPartition(record.topic(), record.partition());
                    offsets.put(partition, new OffsetAndMetadata(record.offset() + 1));
                }
                producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
                if (turn % 3 == 1) {
                    producer.abortTransaction();
                    for (var partition : records.partitions()) {
                        consumer.seek(partition, records.records(partition).get(0).offset());
                    }
                } else {
                    producer.commitTransaction();
                    copied += records.count();
                }
            }
        }
        var seen = all(target, COUNT);
        check(seen.size() == COUNT && seen.stream().distinct().count() == COUNT, seen.size() + " copied");
        long sum = 0;
        var offsets = admin.listConsumerGroupOffsets(protocol).partitionsToOffsetAndMetadata();
        for (var offset : offsets.get(10, TimeUnit.SECONDS).values()) {
            sum += offset.offset();
        }
        check(sum >= COUNT, sum + " is committed");
    }

    static void told(String what) {
        System.out.println(what + " after " + (System.nanoTime() - START) / 1_000_000 + " ms");
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }
}
