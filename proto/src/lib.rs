//! PostgreSQL wire protocol.
