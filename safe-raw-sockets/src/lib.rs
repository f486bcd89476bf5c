//! Raw and packet sockets for slices without CAP_NET_RAW: the broker and its client library.
//!
//! The broker arrives with its own milestone; until then a slice has no raw sockets at all.
