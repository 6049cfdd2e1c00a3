import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.math.BigDecimal;
import java.security.MessageDigest;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

/** pgjdbc, which prepares on the server what it has executed five times, and then asks for binary results. */
public final class Pgjdbc {
    static final int CLIENTS = 20;
    static final int SERVERS = 4;
    static final int MEGABYTE = 1 << 20;
    static final int PATIENCE_MS = 60_000;

    /** Only one client sleeps at a time: who looks whether it does needs a server too. */
    static final Object SLEEPING = new Object();

    static String url;

    final int number;
    final Connection connection;
    /** What this client saw: results and errors, no times, so that two runs can be compared. */
    final List<String> lines = new ArrayList<>();

    Pgjdbc(int number) throws SQLException {
        this.number = number;
        this.connection = connect();
    }

    static Connection connect() throws SQLException {
        return DriverManager.getConnection(url);
    }

    interface Scenario {
        void run() throws Exception;
    }

    void play(String name, Scenario scenario) {
        saw("# " + name);
        try {
            scenario.run();
        } catch (Exception e) {
            saw("UNEXPECTED " + e);
            e.printStackTrace();
        }
    }

    void saw(Object what) {
        lines.add(String.valueOf(what));
    }

    void refused(Scenario scenario) throws Exception {
        try {
            scenario.run();
            saw("no error");
        } catch (SQLException e) {
            saw("error " + e.getSQLState() + " " + e.getMessage().lines().findFirst().orElse(""));
        }
    }

    static String text(Object value) throws SQLException {
        if (value instanceof byte[] bytes) return HexFormat.of().formatHex(bytes);
        if (value instanceof Array array) return Arrays.toString((Object[]) array.getArray());
        return String.valueOf(value);
    }

    static String digest(byte[] data) throws Exception {
        byte[] md5 = MessageDigest.getInstance("MD5").digest(data);
        return data.length + " bytes " + HexFormat.of().formatHex(md5);
    }

    static List<List<String>> rows(ResultSet results) throws SQLException {
        List<List<String>> rows = new ArrayList<>();
        while (results.next()) {
            List<String> row = new ArrayList<>();
            for (int i = 1; i <= results.getMetaData().getColumnCount(); i++) row.add(text(results.getObject(i)));
            rows.add(row);
        }
        return rows;
    }

    /** A statement of its own for each call; the driver finds the query in its cache. */
    List<List<String>> query(String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
            return rows(statement.executeQuery());
        }
    }

    void execute(String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    void types() throws SQLException {
        String sql = "select ?::int4, ?::int8, ?::float8, ?::numeric, ?::text, ?::bool, ?::bytea, ?::jsonb, ?::timestamptz, "
                + "?::int4[], ?::text[], ?::uuid, ?::date";
        Object[] values = {
            -7, 1L << 40, 1.1, new BigDecimal("12345.678900"), "naïve 'text'", true, new byte[] {0, -1, 92}, "{\"a\": [1, null]}",
            OffsetDateTime.of(2024, 2, 29, 12, 30, 1, 250_000_000, ZoneOffset.UTC),
            connection.createArrayOf("int4", new Integer[] {1, null, 3}),
            connection.createArrayOf("text", new String[] {"a,b", "", null, "\""}), new UUID(0, 0x1234), LocalDate.of(1999, 12, 31),
        };
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int round = 0; round < 8; round++) {
                for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
                saw(rows(statement.executeQuery()));
            }
            for (int round = 0; round < 8; round++) {
                for (int i = 0; i < values.length; i++) statement.setNull(i + 1, Types.NULL);
                saw(rows(statement.executeQuery()));
            }
        }
    }

    void sharedStatement() throws SQLException {
        for (int i = 0; i < 12; i++) saw(query("select ?::int * 2, ?::text", number * 100 + i, "of " + number));
    }

    void ownStatements() throws SQLException {
        for (int round = 0; round < 7; round++)
            for (int i = 0; i < 15; i++) saw(query("select " + number + " + " + i + ", ?::text", "" + i));
    }

    void statementsBeyondTheCache() throws SQLException {
        // The driver keeps 256, and closes the others on the server.
        for (int i = 0; i < 270; i++) {
            List<List<String>> last = null;
            for (int round = 0; round < 6; round++) last = query("select " + i + " + ?::int", number);
            if (i % 27 == 0) saw(last);
        }
    }

    void batches() throws Exception {
        String table = "batched_" + number;
        execute("create table " + table + " (i int, s text)");
        for (int round = 0; round < 3; round++) {
            final int divisor = round == 1 ? 0 : 1;
            refused(() -> {
                try (PreparedStatement insert = connection.prepareStatement("insert into " + table + " values (1000 / ?, ?)")) {
                    for (int i = 1; i <= 400; i++) {
                        insert.setInt(1, i == 300 ? divisor : i);
                        insert.setString(2, "row " + i);
                        insert.addBatch();
                    }
                    saw(Arrays.stream(insert.executeBatch()).sum());
                } catch (BatchUpdateException e) {
                    throw e.getNextException() == null ? e : e.getNextException();
                }
            });
            saw(query("select count(*), sum(i), max(s) from " + table));
        }
        try (PreparedStatement insert = connection.prepareStatement(
                "insert into " + table + " values (?, 'returned')", Statement.RETURN_GENERATED_KEYS)) {
            for (int i = 0; i < 10; i++) {
                insert.setInt(1, i);
                insert.addBatch();
            }
            insert.executeBatch();
            saw(rows(insert.getGeneratedKeys()));
        }
    }

    void transactionWithError() throws Exception {
        connection.setAutoCommit(false);
        for (int i = 0; i < 8; i++) {
            final int n = i;
            saw(query("select ?::int", i));
            refused(() -> query("select 1 / ?::int", 0));
            refused(() -> query("select ?::int", n));
            refused(() -> query("select " + n + " + ?::int", n));
            connection.rollback();
            saw(query("select " + i + " + ?::int", i));
            connection.commit();
        }
        connection.setAutoCommit(true);
    }

    void savepoints() throws Exception {
        String insert = "insert into saved_" + number + " values (10 / ?::int) returning i";
        execute("create table saved_" + number + " (i int)");
        connection.setAutoCommit(false);
        for (int i = 1; i < 8; i++) {
            query(insert, i);
            Savepoint savepoint = connection.setSavepoint("s");
            refused(() -> query(insert, 0));
            connection.rollback(savepoint);
            connection.releaseSavepoint(savepoint);
            query(insert, i * 2);
            connection.commit();
        }
        connection.setAutoCommit(true);
        saw(query("select array_agg(i order by i) from saved_" + number));
    }

    void rowsByAPortal() throws SQLException {
        connection.setAutoCommit(false);
        for (int round = 0; round < 7; round++)
            try (PreparedStatement statement = connection.prepareStatement("select i from generate_series(1, ?) i")) {
                statement.setFetchSize(7);
                statement.setInt(1, 100);
                saw(rows(statement.executeQuery()).size());
                statement.setMaxRows(10);
                saw(rows(statement.executeQuery()));
            }
        connection.commit();
        connection.setAutoCommit(true);
    }

    void cancel() throws Exception {
        for (int i = 0; i < 2; i++) {
            synchronized (SLEEPING) {
                try (Statement statement = connection.createStatement(); Connection observer = connect();
                        Statement look = observer.createStatement()) {
                    Thread canceler = new Thread(() -> {
                        try {
                            untilAsleep(look);
                            statement.cancel();
                        } catch (Exception e) {
                            e.printStackTrace();
                        }
                    });
                    canceler.start();
                    refused(() -> statement.execute("select pg_sleep(60)"));
                    canceler.join();
                }
            }
            saw(query("select 'goes on', ?::int", number));
        }
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            if (number == 0) {
                // Nobody else may take it for the one to be cancelled.
                synchronized (SLEEPING) {
                    refused(() -> statement.execute("select pg_sleep(60)"));
                }
            }
            saw(rows(statement.executeQuery("select 'in time'")));
        }
    }

    static void untilAsleep(Statement look) throws Exception {
        long deadline = System.nanoTime() + PATIENCE_MS * 1_000_000L;
        for (;;) {
            ResultSet asleep = look.executeQuery(
                    "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()");
            asleep.next();
            if (asleep.getInt(1) > 0) return;
            if (System.nanoTime() > deadline) throw new IllegalStateException("nobody sleeps");
            Thread.sleep(5);
        }
    }

    void copy() throws Exception {
        String table = "copied_" + number;
        execute("create table " + table + " (i int, s text, b bytea)");
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < 2000; i++) text.append(i).append(i % 7 == 0 ? "\t\\N" : "\tline of " + number).append("\t\\\\x00ff\n");
        CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
        saw(copy.copyIn("copy " + table + " from stdin", new StringReader(text.toString())));
        for (String format : new String[] {"text", "binary"}) {
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            saw(copy.copyOut("copy (select * from " + table + " order by i) to stdout (format " + format + ")", out));
            saw(digest(out.toByteArray()));
        }
        refused(() -> copy.copyIn("copy " + table + " from stdin", new StringReader("1\tone\t\nnot a number\t\t\n")));
        saw(query("select count(*), sum(i) from " + table));
    }

    void largeValues() throws Exception {
        String text = ("" + number % 10).repeat(MEGABYTE);
        byte[] data = new byte[MEGABYTE];
        for (int i = 0; i < data.length; i++) data[i] = (byte) (i * 7 + number);
        for (int round = 0; round < 7; round++)
            try (PreparedStatement statement = connection.prepareStatement("select ?::text, ?::bytea, length(?::text)")) {
                statement.setString(1, text);
                statement.setBytes(2, data);
                statement.setString(3, text);
                ResultSet results = statement.executeQuery();
                results.next();
                saw(digest(results.getBytes(1)) + " " + digest(results.getBytes(2)) + " " + results.getInt(3));
            }
    }

    /** Makes sure that every server knows the statement, whoever serves whom. */
    void holdPlan(CyclicBarrier together) throws Exception {
        connection.setAutoCommit(false);
        for (int i = 0; i < 7; i++) query("select * from planned where a = ?", 1);
        together.await();
        connection.commit();
        connection.setAutoCommit(true);
    }

    /** The driver tries again by itself, but for a transaction. */
    void changedPlan() throws SQLException {
        saw(query("select * from planned where a = ?", 1));
    }

    void all() {
        play("types", this::types);
        play("shared statement", this::sharedStatement);
        play("own statements", this::ownStatements);
        play("statements beyond the cache", this::statementsBeyondTheCache);
        play("batches", this::batches);
        play("transaction with error", this::transactionWithError);
        play("savepoints", this::savepoints);
        play("rows by a portal", this::rowsByAPortal);
        play("cancel", this::cancel);
        play("copy", this::copy);
        play("large values", this::largeValues);
    }

    static void together(ExecutorService threads, List<Pgjdbc> clients, java.util.function.Function<Pgjdbc, Callable<Void>> what)
            throws Exception {
        for (Future<Void> done : threads.invokeAll(clients.stream().map(what).toList())) done.get();
    }

    public static void main(String[] args) throws Exception {
        url = "jdbc:" + args[0].replace("app@", "") + "?user=app";
        List<Pgjdbc> clients = new ArrayList<>();
        for (int number = 0; number < CLIENTS; number++) clients.add(new Pgjdbc(number));
        ExecutorService threads = Executors.newFixedThreadPool(CLIENTS);
        together(threads, clients, client -> () -> {
            client.all();
            return null;
        });
        clients.get(0).execute("create table planned as select 1 as a");
        for (int first = 0; first < CLIENTS; first += SERVERS) {
            CyclicBarrier barrier = new CyclicBarrier(SERVERS);
            together(threads, clients.subList(first, first + SERVERS), client -> () -> {
                client.holdPlan(barrier);
                return null;
            });
        }
        clients.get(0).execute("alter table planned add column b text default 'new'");
        for (Pgjdbc client : clients) client.play("changed plan", client::changedPlan);
        for (Pgjdbc client : clients) System.out.println("== client " + client.number + "\n" + String.join("\n", client.lines));
        threads.shutdownNow();
    }
}
