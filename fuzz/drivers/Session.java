import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;

/** A session of pgjdbc: prepared on the server at once, a batch, a fetch in pieces, a savepoint, an error. */
class Session {
    public static void main(String[] args) throws Exception {
        try (Connection c = DriverManager.getConnection(args[0])) {
            try (var s = c.createStatement()) {
                s.execute("create temp table t (i int, s text)");
            }
            c.setAutoCommit(false);
            try (var s = c.prepareStatement("insert into t values (?, ?)")) {
                for (int i = 0; i < 5; i++) {
                    s.setInt(1, i);
                    s.setString(2, "row " + i);
                    s.addBatch();
                }
                s.executeBatch();
            }
            try (var s = c.prepareStatement("select * from t where i > ?")) {
                s.setFetchSize(2);
                s.setInt(1, 0);
                try (var rows = s.executeQuery()) {
                    while (rows.next()) {
                        rows.getString(2);
                    }
                }
            }
            var savepoint = c.setSavepoint();
            try (var s = c.createStatement()) {
                s.execute("select nonsense");
            } catch (SQLException expected) {
                c.rollback(savepoint);
            }
            c.commit();
        }
    }
}
