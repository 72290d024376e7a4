import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Admin, an idempotent producer with every compression, a consumer group, a light topic; prints "ok". */
public class Smoke {
    static final int COUNT = 1000;

    public static void main(String[] arguments) throws Exception {
        Properties common = new Properties();
        common.put("bootstrap.servers", arguments[0]);
        try (Admin admin = Admin.create(common)) {
            admin.createTopics(List.of(new NewTopic("declared", 4, (short) 1))).all().get(20, TimeUnit.SECONDS);
            admin.describeCluster().nodes().get(20, TimeUnit.SECONDS);
            for (String topic : List.of("declared", "light")) {
                for (String compression : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
                    produce(common, topic, compression);
                }
                consume(common, topic, 5 * COUNT);
            }
            var end = admin.listOffsets(Map.of(new TopicPartition("light", 0), OffsetSpec.latest()));
            long offset = end.all().get(20, TimeUnit.SECONDS).get(new TopicPartition("light", 0)).offset();
            check(offset == 5 * COUNT, "the end is " + offset);
            var groups = admin.listConsumerGroups().all().get(20, TimeUnit.SECONDS);
            check(groups.size() == 2, groups.size() + " groups");
            var offsets = admin.listConsumerGroupOffsets("group of light").partitionsToOffsetAndMetadata();
            long committed = offsets.get(20, TimeUnit.SECONDS).get(new TopicPartition("light", 0)).offset();
            check(committed == 5 * COUNT, committed + " is committed");
            admin.deleteTopics(List.of("declared", "light")).all().get(20, TimeUnit.SECONDS);
        }
        System.out.println("ok");
    }

    static void produce(Properties common, String topic, String compression) throws Exception {
        Properties properties = new Properties();
        properties.putAll(common);
        properties.put("compression.type", compression);
        properties.put("linger.ms", "5");
        try (var producer = new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer())) {
            java.util.concurrent.Future<?> last = null;
            for (int number = 0; number < COUNT; number++) {
                var record = new ProducerRecord<>(topic, "key " + number, compression + " " + number);
                record.headers().add("number", Integer.toString(number).getBytes());
                last = producer.send(record);
            }
            producer.flush();
            last.get(20, TimeUnit.SECONDS);
        }
    }

    static void consume(Properties common, String topic, int count) {
        Properties properties = new Properties();
        properties.putAll(common);
        properties.put("group.id", "group of " + topic);
        properties.put("auto.offset.reset", "earliest");
        properties.put("enable.auto.commit", "false");
        Set<String> seen = new HashSet<>();
        int records = 0;
        try (var consumer = new KafkaConsumer<>(properties, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            long deadline = System.currentTimeMillis() + 30_000;
            while (seen.size() < count && System.currentTimeMillis() < deadline) {
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(500))) {
                    check(record.headers().lastHeader("number") != null, "a header");
                    seen.add(record.value());
                    records++;
                }
            }
            consumer.commitSync();
        }
        check(seen.size() == count && records == count, records + " records of " + topic);
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }
}
