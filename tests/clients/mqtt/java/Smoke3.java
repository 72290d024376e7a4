// Eclipse Paho's client of MQTT 3 against a broker:
// java -cp 'jars/*' Smoke3.java <url> <3|4> <topic prefix> [CA file]. Says "ok".

import java.io.FileInputStream;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.eclipse.paho.client.mqttv3.IMqttToken;
import org.eclipse.paho.client.mqttv3.MqttClient;
import org.eclipse.paho.client.mqttv3.MqttConnectOptions;
import org.eclipse.paho.client.mqttv3.MqttMessage;
import org.eclipse.paho.client.mqttv3.persist.MemoryPersistence;

public class Smoke3 {
  static String url, prefix, ca;
  static int version;

  static void check(boolean condition, String what) {
    if (!condition) throw new IllegalStateException(what);
  }

  static MqttConnectOptions options(boolean clean) throws Exception {
    MqttConnectOptions options = new MqttConnectOptions();
    options.setMqttVersion(version);
    options.setCleanSession(clean);
    options.setConnectionTimeout(10);
    if (ca != null) options.setSocketFactory(trusting(ca).getSocketFactory());
    return options;
  }

  static SSLContext trusting(String file) throws Exception {
    KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
    store.load(null, null);
    try (FileInputStream in = new FileInputStream(file)) {
      store.setCertificateEntry(
          "ca", CertificateFactory.getInstance("X.509").generateCertificate(in));
    }
    TrustManagerFactory trust =
        TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(store);
    SSLContext context = SSLContext.getInstance("TLS");
    context.init(null, trust.getTrustManagers(), null);
    return context;
  }

  static class Client {
    final BlockingQueue<MqttMessage> messages = new LinkedBlockingQueue<>();
    final MqttClient client;
    boolean sessionPresent;

    Client(String name, MqttConnectOptions options) throws Exception {
      client = new MqttClient(url, (prefix + "-" + name).replace('/', '-'), new MemoryPersistence());
      client.setTimeToWait(10_000);
      client.setCallback(
          new org.eclipse.paho.client.mqttv3.MqttCallback() {
            public void connectionLost(Throwable cause) {}

            public void messageArrived(String topic, MqttMessage message) {
              messages.add(message);
            }

            public void deliveryComplete(
                org.eclipse.paho.client.mqttv3.IMqttDeliveryToken token) {}
          });
      IMqttToken token = client.connectWithResult(options);
      sessionPresent = token.getSessionPresent();
    }

    MqttMessage next() throws InterruptedException {
      MqttMessage message = messages.poll(10, TimeUnit.SECONDS);
      check(message != null, "no message came");
      return message;
    }

    void subscribe(String filter, int qos) throws Exception {
      // A listener of its own would take the messages of this filter from the callback.
      IMqttToken token = client.subscribeWithResponse(filter, qos);
      check(token.getGrantedQos()[0] == qos, "granted");
    }

    void publish(String topic, String text, int qos, boolean retain) throws Exception {
      client.publish(topic, text.getBytes("UTF-8"), qos, retain);
    }

    void close() throws Exception {
      client.disconnect();
      client.close();
    }
  }

  public static void main(String[] arguments) throws Exception {
    url = arguments[0];
    version = Integer.parseInt(arguments[1]);
    prefix = arguments[2];
    ca = arguments.length > 3 ? arguments[3] : null;

    Client subscriber = new Client("subscriber", options(false));
    check(!subscriber.sessionPresent, "no session yet");
    MqttConnectOptions withWill = options(true);
    withWill.setWill(prefix + "/will", "gone".getBytes("UTF-8"), 1, false);
    Client publisher = new Client("publisher", withWill);
    subscriber.subscribe(prefix + "/data", 2);
    subscriber.subscribe(prefix + "/will", 1);

    for (int qos = 0; qos < 3; qos++) {
      publisher.publish(prefix + "/data", "" + qos, qos, false);
      MqttMessage message = subscriber.next();
      check(message.toString().equals("" + qos) && message.getQos() == qos, "QoS " + qos);
      check(!message.isRetained(), "live");
    }

    publisher.publish(prefix + "/kept", "kept", 1, true);
    Client late = new Client("late", options(true));
    late.subscribe(prefix + "/kept", 1);
    MqttMessage kept = late.next();
    check(kept.toString().equals("kept") && kept.isRetained(), "a retained message");
    late.close();

    subscriber.close();
    publisher.publish(prefix + "/data", "while away", 2, false);
    subscriber = new Client("subscriber", options(false));
    check(version == 3 || subscriber.sessionPresent, "the session is there");
    check(subscriber.next().toString().equals("while away"), "what waited");

    publisher.client.disconnectForcibly(0, 1, false);
    check(subscriber.next().toString().equals("gone"), "the will");
    subscriber.close();
    System.out.println("ok");
    System.exit(0);
  }
}
