//! What commands mean: command table, keyspace, types, expiry, sessions, versions.
