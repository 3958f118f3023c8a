//! Does a running server keep its promises to real sockets?

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may panic like the test itself"
)]

mod access;
mod backend;
mod bad_input;
mod bad_tokens;
mod binary;
mod callbacks;
mod commands;
mod compression;
mod conversation;
mod examples;
mod explain;
mod fanout;
mod harness;
mod heartbeats;
mod histories;
mod http;
mod http_api;
mod http_logs;
mod ingest;
mod library;
mod limits;
mod listeners;
mod locked_memory;
mod logs;
mod metrics;
mod neighbours;
mod notify;
mod presence;
mod process;
mod program_calls;
mod proxies;
mod questions;
mod raw;
mod regression;
mod request_heads;
mod rfc6455;
mod stores;
mod tap;
mod tenants;
mod tls;
mod tokens;
mod transcripts;
mod unauthenticated;
mod webhooks;
