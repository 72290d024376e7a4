import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeSet;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Members of consumer groups, each polled by a thread of its own. Lines of standard input:
 * `open NAME GROUP TOPICS [setting=value ...]` (TOPICS: names with commas, or ~ and a regular
 * expression), `close NAME`. Lines of standard output: `NAME has PARTITIONS` after each change,
 * `NAME read VALUE`, `NAME closed`, `NAME failed WHY`.
 */
public class Members {
    static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    static class Member extends Thread implements ConsumerRebalanceListener {
        final String name;
        final KafkaConsumer<String, String> consumer;
        final TreeSet<String> has = new TreeSet<>();
        final CountDownLatch ended = new CountDownLatch(1);
        volatile boolean closing;

        Member(String address, String[] words) {
            name = words[1];
            var settings = new Properties();
            settings.put("bootstrap.servers", address);
            settings.put("group.id", words[2]);
            settings.put("auto.offset.reset", "earliest");
            settings.put("auto.commit.interval.ms", "200");
            settings.put("metadata.max.age.ms", "1000");
            for (int index = 4; index < words.length; index++) {
                int equals = words[index].indexOf('=');
                settings.put(words[index].substring(0, equals), words[index].substring(equals + 1));
            }
            consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
            if (words[3].startsWith("~")) {
                consumer.subscribe(new SubscriptionPattern(words[3].substring(1)), this);
            } else {
                consumer.subscribe(List.of(words[3].split(",")), this);
            }
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            partitions.forEach(partition -> has.add(partition.toString()));
            say(name + " has " + String.join(",", has));
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            partitions.forEach(partition -> has.remove(partition.toString()));
            say(name + " has " + String.join(",", has));
        }

        @Override
        public void run() {
            try {
                while (!closing) {
                    for (var record : consumer.poll(Duration.ofMillis(100))) {
                        say(name + " read " + record.value());
                    }
                }
                consumer.close();
                say(name + " closed");
            } catch (RuntimeException error) {
                say(name + " failed " + error);
            }
            ended.countDown();
        }
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, Member> members = new HashMap<>();
        var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.split(" ");
            if (words[0].equals("open")) {
                var member = new Member(arguments[0], words);
                members.put(member.name, member);
                member.start();
            } else {
                members.get(words[1]).closing = true;
            }
        }
        System.exit(0);
    }
}
