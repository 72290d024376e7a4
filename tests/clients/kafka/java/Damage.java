import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Reads a partition, of which something is damaged, from its beginning to its end, with a group that
 * begins as it is told. Prints the values; what the client throws, with the position; and goes on behind
 * the damage when it was told of it twice. */
public class Damage {
    public static void main(String[] arguments) {
        var properties = new Properties();
        properties.put("bootstrap.servers", arguments[0]);
        properties.put("group.id", arguments[2]);
        properties.put("group.protocol", arguments[3]);
        properties.put("auto.offset.reset", "earliest");
        properties.put("max.poll.records", 1000);
        var partition = new TopicPartition(arguments[1], 0);
        try (var consumer = new KafkaConsumer<>(properties, new StringDeserializer(), new StringDeserializer())) {
            consumer.assign(List.of(partition));
            long end = consumer.endOffsets(List.of(partition)).get(partition);
            long told = -1;
            while (consumer.position(partition) < end) {
                try {
                    for (var record : consumer.poll(Duration.ofSeconds(5))) {
                        System.out.println(record.value());
                    }
                } catch (KafkaException error) {
                    long position = consumer.position(partition);
                    System.out.println("error at " + position + ": " + error.getMessage());
                    if (told == position) {
                        consumer.seek(partition, position + 1);
                    }
                    told = position;
                }
            }
        }
        System.out.println("ok");
    }
}
