import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.HashMap;
import java.util.Map;

/** The console with pgjdbc: with and without transactions, often enough for statements of the server and binary results. */
public class Console {
    public static void main(String[] args) throws SQLException {
        String url = "jdbc:" + args[0].replaceFirst("//[^@]*@", "//");
        try (Connection connection = DriverManager.getConnection(url, "admin", "")) {
            try (PreparedStatement lists = connection.prepareStatement("SHOW LISTS")) {
                for (int n = 0; n < 10; n++) {
                    check(items(lists).get("databases") == 2, "databases");
                }
            }
            try (PreparedStatement totals = connection.prepareStatement("SHOW TOTALS")) {
                for (int n = 0; n < 10; n++) {
                    check(items(totals).get("total_query_count") > 5, "queries");
                }
            }
            check(connection.isValid(5), "valid");
            connection.setAutoCommit(false);
            try (Statement statement = connection.createStatement()) {
                statement.setFetchSize(10);
                int rows = 0;
                try (ResultSet config = statement.executeQuery("SHOW CONFIG")) {
                    while (config.next()) {
                        rows++;
                    }
                }
                check(rows > 90, "rows in portions");
                check(!statement.execute("RELOAD"), "no rows");
            }
            connection.commit();
            try (PreparedStatement kill = connection.prepareStatement("KILL_CLIENT ?")) {
                kill.setInt(1, 1);
                kill.execute();
                check(false, "a parameter was taken");
            } catch (SQLException e) {
                check("0A000".equals(e.getSQLState()), e.toString());
            }
            connection.rollback();
        }
        System.out.println("pgjdbc");
    }

    private static Map<String, Long> items(PreparedStatement statement) throws SQLException {
        Map<String, Long> items = new HashMap<>();
        try (ResultSet rows = statement.executeQuery()) {
            while (rows.next()) {
                items.put(rows.getString(1), rows.getLong(2));
            }
        }
        return items;
    }

    private static void check(boolean isSo, String what) {
        if (!isSo) {
            throw new AssertionError(what);
        }
    }
}
