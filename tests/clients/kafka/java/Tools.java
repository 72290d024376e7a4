import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Apache Kafka's command-line tools, any number in one virtual machine. A line of standard input
 * is a class, its standard input and its arguments, parted by U+001F, with U+001E for line ends; the
 * answer is what the tool printed, and a line of U+0004 and its exit code.
 */
public class Tools {
    static class Ended extends RuntimeException {
        Ended(int code) {
            super("exit " + code, null, false, false);
        }
    }

    /** The first exit code of a tool: some catch what is thrown here, and exit once more. */
    static Integer first;

    static void end(int code) {
        if (first == null) {
            first = code;
        }
        throw new Ended(code);
    }

    public static void main(String[] arguments) throws Exception {
        Exit.setExitProcedure((code, message) -> end(code));
        Exit.setHaltProcedure((code, message) -> end(code));
        PrintStream output = System.out;
        var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.split("\u001f", -1);
            for (int index = 0; index < words.length; index++) {
                words[index] = words[index].replace('\u001e', '\n');
            }
            var bytes = new ByteArrayOutputStream();
            var captured = new PrintStream(bytes, true, StandardCharsets.UTF_8);
            System.setOut(captured);
            System.setErr(captured);
            System.setIn(new ByteArrayInputStream(words[1].getBytes(StandardCharsets.UTF_8)));
            int code = run(words[0], Arrays.copyOfRange(words, 2, words.length), captured);
            captured.flush();
            output.print(bytes.toString(StandardCharsets.UTF_8));
            output.println("\n\u0004" + code);
            output.flush();
        }
        System.exit(0);
    }

    static int run(String name, String[] arguments, PrintStream captured) {
        first = null;
        try {
            Class.forName(name).getMethod("main", String[].class).invoke(null, (Object) arguments);
            return 0;
        } catch (InvocationTargetException error) {
            if (error.getCause() instanceof Ended) {
                return first;
            }
            error.getCause().printStackTrace(captured);
            return 70;
        } catch (ReflectiveOperationException error) {
            error.printStackTrace(captured);
            return 71;
        }
    }
}
