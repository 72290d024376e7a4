// Eclipse Paho's client of MQTT 5.0 against a broker:
// java -cp 'jars/*' Smoke5.java <url> 5 <topic prefix> [CA file]. Says "ok".

import java.io.FileInputStream;
import java.io.IOException;
import java.net.InetAddress;
import java.net.Socket;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.HashSet;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocketFactory;
import javax.net.ssl.TrustManagerFactory;
import org.eclipse.paho.mqttv5.client.IMqttToken;
import org.eclipse.paho.mqttv5.client.MqttCallback;
import org.eclipse.paho.mqttv5.client.MqttClient;
import org.eclipse.paho.mqttv5.client.MqttConnectionOptions;
import org.eclipse.paho.mqttv5.client.MqttDisconnectResponse;
import org.eclipse.paho.mqttv5.client.persist.MemoryPersistence;
import org.eclipse.paho.mqttv5.common.MqttException;
import org.eclipse.paho.mqttv5.common.MqttMessage;
import org.eclipse.paho.mqttv5.common.packet.MqttProperties;

public class Smoke5 {
  static String url, prefix, ca;

  static void check(boolean condition, String what) {
    if (!condition) throw new IllegalStateException(what);
  }

  static MqttConnectionOptions options(boolean stays) throws Exception {
    MqttConnectionOptions options = new MqttConnectionOptions();
    options.setCleanStart(!stays);
    options.setSessionExpiryInterval(stays ? 60L : 0L);
    options.setConnectionTimeout(10);
    if (ca != null) options.setSocketFactory(new Remembering(trusting(ca).getSocketFactory()));
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

  // disconnectForcibly leaves a TLS connection open: it has to be cut at its socket.
  static class Remembering extends SSLSocketFactory {
    final SSLSocketFactory real;
    Socket last;

    Remembering(SSLSocketFactory real) {
      this.real = real;
    }

    public Socket createSocket() throws IOException {
      return last = real.createSocket();
    }

    public Socket createSocket(Socket under, String host, int port, boolean close)
        throws IOException {
      return last = real.createSocket(under, host, port, close);
    }

    public Socket createSocket(String host, int port) throws IOException {
      return last = real.createSocket(host, port);
    }

    public Socket createSocket(String host, int port, InetAddress from, int fromPort)
        throws IOException {
      return last = real.createSocket(host, port, from, fromPort);
    }

    public Socket createSocket(InetAddress host, int port) throws IOException {
      return last = real.createSocket(host, port);
    }

    public Socket createSocket(InetAddress host, int port, InetAddress from, int fromPort)
        throws IOException {
      return last = real.createSocket(host, port, from, fromPort);
    }

    public String[] getDefaultCipherSuites() {
      return real.getDefaultCipherSuites();
    }

    public String[] getSupportedCipherSuites() {
      return real.getSupportedCipherSuites();
    }
  }

  static class Client implements MqttCallback {
    final BlockingQueue<MqttMessage> messages = new LinkedBlockingQueue<>();
    final MqttClient client;
    boolean sessionPresent;

    Client(String name, MqttConnectionOptions options) throws Exception {
      client = new MqttClient(url, (prefix + "-" + name).replace('/', '-'), new MemoryPersistence());
      client.setTimeToWait(10_000);
      client.setCallback(this);
      IMqttToken token = client.connectWithResult(options);
      sessionPresent = token.getSessionPresent();
    }

    public void disconnected(MqttDisconnectResponse response) {}

    public void mqttErrorOccurred(MqttException exception) {
      exception.printStackTrace();
    }

    public void messageArrived(String topic, MqttMessage message) {
      messages.add(message);
    }

    public void deliveryComplete(IMqttToken token) {}

    public void connectComplete(boolean reconnect, String serverURI) {}

    public void authPacketArrived(int reasonCode, MqttProperties properties) {}

    MqttMessage next() throws InterruptedException {
      MqttMessage message = messages.poll(10, TimeUnit.SECONDS);
      check(message != null, "no message came");
      return message;
    }

    void subscribe(String filter, int qos) throws Exception {
      client.subscribe(filter, qos);
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
    prefix = arguments[2];
    ca = arguments.length > 3 ? arguments[3] : null;

    Client subscriber = new Client("subscriber", options(true));
    check(!subscriber.sessionPresent, "no session yet");
    MqttConnectionOptions withWill = options(false);
    MqttMessage will = new MqttMessage("gone".getBytes("UTF-8"));
    will.setQos(1);
    withWill.setWill(prefix + "/will", will);
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
    Client late = new Client("late", options(false));
    late.subscribe(prefix + "/kept", 1);
    MqttMessage kept = late.next();
    check(kept.toString().equals("kept") && kept.isRetained(), "a retained message");
    late.close();

    subscriber.close();
    publisher.publish(prefix + "/data", "while away", 2, false);
    subscriber = new Client("subscriber", options(true));
    check(subscriber.sessionPresent, "the session is there");
    check(subscriber.next().toString().equals("while away"), "what waited");

    Client[] members = {new Client("one", options(false)), new Client("two", options(false))};
    for (Client member : members) member.subscribe("$share/group/" + prefix + "/jobs", 1);
    for (int job = 0; job < 20; job++) publisher.publish(prefix + "/jobs", "" + job, 1, false);
    Set<String> done = new HashSet<>();
    long deadline = System.currentTimeMillis() + 10_000;
    while (done.size() < 20 && System.currentTimeMillis() < deadline) {
      for (Client member : members) {
        MqttMessage message = member.messages.poll(20, TimeUnit.MILLISECONDS);
        if (message != null) check(done.add(message.toString()), "a job for one member");
      }
    }
    check(done.size() == 20, "all jobs");
    for (Client member : members) member.close();

    if (withWill.getSocketFactory() instanceof Remembering factory) factory.last.close();
    else publisher.client.disconnectForcibly(0, 1, false);
    check(subscriber.next().toString().equals("gone"), "the will");
    subscriber.close();
    System.out.println("ok");
    System.exit(0);
  }
}
