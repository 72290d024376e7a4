import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.LongDeserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.Stores;

/**
 * Counts words with Kafka Streams: a repartition topic, a store with a changelog, and once more after
 * a restart, when the counts go on from what the changelog has.
 * {@code WordCount <address> <processing guarantee> <input topic> <output topic> <state directory>}; the
 * topics are there.
 */
public class WordCount {
    static final List<String> LINES = List.of("the log is the only queue", "the broker keeps the log", "one log");

    public static void main(String[] arguments) throws Exception {
        String address = arguments[0];
        String output = arguments[3];
        Map<String, Long> wanted = new HashMap<>();
        for (int round = 0; round < 2; round++) {
            produce(address, arguments[2]);
            LINES.stream().flatMap(line -> Arrays.stream(line.split(" "))).forEach(word -> wanted.merge(word, 1L, Long::sum));
            try (KafkaStreams streams = streams(arguments, round)) {
                streams.setUncaughtExceptionHandler(error -> {
                    error.printStackTrace();
                    return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
                });
                streams.start();
                Map<String, Long> found = read(address, output, wanted);
                if (!found.equals(wanted)) {
                    throw new AssertionError("round " + round + ": " + found + ", wanted " + wanted);
                }
                streams.close(Duration.ofSeconds(10));
            }
        }
        System.out.println("counted " + wanted.get("the") + " and " + wanted.get("log"));
    }

    static void produce(String address, String topic) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", address);
        try (var producer = new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer())) {
            for (String line : LINES) {
                producer.send(new ProducerRecord<>(topic, null, line));
            }
        }
    }

    static KafkaStreams streams(String[] arguments, int round) {
        StreamsBuilder builder = new StreamsBuilder();
        KStream<String, String> lines = builder.stream(arguments[2]);
        var counts = Materialized.<String, Long>as(Stores.inMemoryKeyValueStore("counts"))
            .withKeySerde(Serdes.String()).withValueSerde(Serdes.Long());
        lines.flatMapValues(line -> Arrays.asList(line.split(" ")))
            .groupBy((key, word) -> word)
            .count(counts)
            .toStream()
            .to(arguments[3], Produced.with(Serdes.String(), Serdes.Long()));
        Properties properties = new Properties();
        properties.put("bootstrap.servers", arguments[0]);
        properties.put("application.id", "counter-" + arguments[1]);
        properties.put("processing.guarantee", arguments[1]);
        // A machine of its own each time: what was counted comes from the changelog.
        properties.put("state.dir", arguments[4] + "/" + round);
        properties.put("default.key.serde", Serdes.StringSerde.class);
        properties.put("default.value.serde", Serdes.StringSerde.class);
        properties.put("commit.interval.ms", "100");
        properties.put("auto.offset.reset", "earliest");
        properties.put("session.timeout.ms", "6000");
        return new KafkaStreams(builder.build(), properties);
    }

    static Map<String, Long> read(String address, String topic, Map<String, Long> wanted) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", address);
        properties.put("group.id", "reader of " + topic);
        properties.put("auto.offset.reset", "earliest");
        properties.put("isolation.level", "read_committed");
        properties.put("enable.auto.commit", "false");
        Map<String, Long> found = new HashMap<>();
        try (var consumer = new KafkaConsumer<>(properties, new StringDeserializer(), new LongDeserializer())) {
            consumer.subscribe(List.of(topic));
            long deadline = System.currentTimeMillis() + 40_000;
            while (!found.equals(wanted) && System.currentTimeMillis() < deadline) {
                consumer.poll(Duration.ofMillis(200)).forEach(record -> found.put(record.key(), record.value()));
            }
        }
        return found;
    }
}
